"""Convert the columns of a row to a conversation."""
