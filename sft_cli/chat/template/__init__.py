"""Chat templates: finding, checking and rendering them."""
