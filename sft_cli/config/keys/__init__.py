"""Valid keys and values, and suggestions for those that are not."""
