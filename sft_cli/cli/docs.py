"""``sft docs``: print a page of the documentation, offline."""

import sys
from typing import Annotated

import typer

WIDEST = 120
"""Most columns of a page on a terminal."""


def _topics(typed: str) -> list[str]:
    """Return the topics that start with the typed text."""
    from sft_cli.docs import TOPICS

    return [name for name in TOPICS if name.startswith(typed)]


def docs(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="Name of a page; without it, all are listed.",
            autocompletion=_topics,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print a page of the documentation: laid out on a terminal, as Markdown in a pipe or a file.

    Example: sft docs memory
    """
    from sft_cli.docs import contents, page

    text = contents() if topic is None else page(topic)
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(theme=Theme({"markdown.code": "cyan"}))  # the default style has a black background
    console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False), width=min(console.width, WIDEST))
