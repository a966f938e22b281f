"""Tool calls in answers: read them from text, check them against the accepted calls, and score them."""
