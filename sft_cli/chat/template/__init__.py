"""Load, check and render chat templates."""
