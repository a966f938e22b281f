"""The trained characters and tokens of a rendered conversation, and their verification."""
