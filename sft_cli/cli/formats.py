"""``sft formats``: the shapes of rows."""

from sft_cli.console import say


def formats() -> None:
    """Print the shapes of rows that are understood, each with an example.

    Example: sft formats
    """
    from sft_cli.data.formats.registry import describe_formats

    say(describe_formats())
