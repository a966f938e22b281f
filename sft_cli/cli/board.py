"""``sft board``: look at runs in a browser."""

from pathlib import Path
from typing import Annotated

import typer

PORT = 8377


def board(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Directory of runs; by default the one that runs are written to.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address to listen on; one for other machines needs --token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            envvar="SFT_BOARD_TOKEN",
            help="Token that every request needs, of at least 16 characters.",
            show_default=False,
        ),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
) -> None:
    """Look at runs in a browser: a page on this machine that reads run directories.

    Example: sft board runs --port 8377
    """
    from sft_cli.board.server import serve_board

    serve_board(directory, host, port, token, open_browser=not no_open)
