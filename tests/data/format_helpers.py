"""Make rows and convert them, for the tests of formats."""

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.types import Row


def row(values):
    return Row(values=values, where="rows.jsonl:7", source="mine")


def convert(found, format, columns, separator="\n\n"):
    """Return the single conversation of a row."""
    (conversation,) = make_converter(SourceConfig(format=format, columns=columns), "mine", separator, ()).convert(found)
    return conversation


USER = {"role": "user", "content": "Q"}
