"""``sft board``: check the directory and the port, and serve the board until Ctrl-C."""

import secrets
import shlex
import socket
from pathlib import Path

from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import LOOPBACK_NAMES, Access, is_loopback
from sft_cli.console import counted, say
from sft_cli.errors import SftError
from sft_cli.run_dir import run_folders
from sft_cli.utils.home import expand_home
from sft_cli.utils.optional_deps import missing_libraries

MIN_TOKEN = 16
"""Characters of a token; short ones can be guessed over a network."""
ANY_ADDRESS = ("0.0.0.0", "::")


def serve_board(directory: Path | None, host: str, port: int, token: str | None, *, open_browser: bool) -> None:
    """Serve the board of a directory until it is interrupted.

    Args:
        directory: The directory of runs; None takes the default one.
        host: Host name or address to listen on.
        port: The port; 0 takes a free one.
        token: The token of the board; None chooses one.
        open_browser: Whether to open the page in a browser.

    Raises:
        SftError: The directory, the token or the port cannot be used, or a library is missing.
    """
    access = choose_access(host, token)
    if found := missing_libraries("sft board", ["starlette", "uvicorn"], "board"):
        raise SftError(where="sft board", problem=found[0], fix=found[1])
    index = open_index(directory)
    listener = listen(host, port)
    from uvicorn import Config, Server

    from sft_cli.board.app import create_app

    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/?token={access.token}"
    say(f"board     {counted(len(index.rows()), 'run')} of {index.directory}")
    say(f"          {address}")
    say("          Ctrl-C ends it; the token in the address allows stopping runs")
    if open_browser:
        import webbrowser

        webbrowser.open(address)
    config = Config(create_app(index, access), log_level="warning", access_log=False, lifespan="off", ws="none")
    with listener:
        Server(config).run(sockets=[listener])


def choose_access(host: str, token: str | None) -> Access:
    """Return who may use a board that listens on ``host``.

    Raises:
        SftError: Other machines could read it without a token, or the token is short.
    """
    if token is not None and len(token) < MIN_TOKEN:
        problem = f"the token has {counted(len(token), 'character')}, {MIN_TOKEN} are needed"
        raise SftError(where="--token", problem=problem, fix=f"sft board --token {secrets.token_urlsafe(MIN_TOKEN)}")
    if is_loopback(host):
        return Access(token or secrets.token_urlsafe(MIN_TOKEN), read_needs_token=token is not None)
    if token is None:
        raise SftError(
            where=f"--host {host}",
            problem="other machines could read the runs without a token",
            fix=f"sft board --host {shlex.quote(host)} --token {secrets.token_urlsafe(MIN_TOKEN)}\n"
            "sft board, on this machine only",
        )
    return Access(token, True, () if host in ANY_ADDRESS else (*LOOPBACK_NAMES, f"[{host}]" if ":" in host else host))


def open_index(directory: Path | None) -> RunIndex:
    """Return the index of a directory.

    Raises:
        SftError: There is no such directory, or there is no run in it.
    """
    path = expand_home(directory) if directory is not None else next(iter(run_folders()))
    if directory is None and not path.is_dir():
        path = Path()
    if not path.is_dir():
        raise SftError(
            where=str(path),
            problem="there is no such directory",
            fix="sft board shows the default directory of runs; sft runs lists runs",
        )
    index = RunIndex(path)
    if not index.rows():
        raise SftError(
            where=str(path),
            problem="there are no runs in this directory",
            fix="start one: sft train recipe=quickstart\nor list runs: sft runs",
        )
    return index


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SftError: The port is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or error.errno not in (13, 98, 48):
            problem, fix = f"this machine cannot listen there: {error.strerror}", "remove --host"
        else:
            problem, fix = (
                f"port {port} is taken or not permitted ({error.strerror})",
                "sft board --port 0 takes a free port",
            )
        raise SftError(where=f"--host {host} --port {port}", problem=problem, fix=fix) from error
    return listener
