"""Formats of rows: from the columns of a row to a conversation."""
