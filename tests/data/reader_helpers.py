"""Files and their rows, for the tests of readers."""

from sft_cli.data.row_errors import RowError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(reader, path):
    """Numbers with values, or with the whole message of what is wrong."""
    records = reader(path, path.name)
    return [(number, str(values) if isinstance(values, RowError) else dict(values)) for number, values in records]
