"""Write files and read their rows, for the tests of readers."""

from hypothesis import strategies as st

from sft_cli.data.row_errors import RowError

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(reader, path):
    """Return row numbers with the values of the row, or with the message of its error."""
    records = reader(path, path.name)
    return [(number, str(values) if isinstance(values, RowError) else dict(values)) for number, values in records]
