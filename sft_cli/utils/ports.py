"""Ports of the loopback interface."""

import socket

from sft_cli.errors import SftError


def free_port() -> int:
    """Return a free TCP port of the loopback interface.

    Raises:
        SftError: The loopback interface cannot be used.
    """
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            return int(server.getsockname()[1])
    except OSError as error:
        raise SftError(
            where="127.0.0.1",
            problem=f"the loopback interface cannot be used: {error.strerror}",
            fix="allow connections on the loopback interface, or remove launcher.nproc",
        ) from error
