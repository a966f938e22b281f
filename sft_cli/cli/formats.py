"""``sft formats``: print the supported row formats."""

from sft_cli.console import say


def formats() -> None:
    """Print the supported formats of rows, each with an example.

    Example: sft formats
    """
    from sft_cli.data.formats.registry import describe_formats

    say(describe_formats())
