"""The servers named on the command line."""

from sft_cli.errors import SftError
from sft_cli.serve.engine import Engine, choose_engine
from sft_cli.utils.similar import closest_name
from sft_cli.verify.servers import SERVERS, Server


def parse_servers(text: str | None) -> list[Server]:
    """Return the servers of a list such as ``vllm,ollama``.

    Raises:
        SftError: A name is unknown.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in SERVERS:
            known = ", ".join(SERVERS)
            near = closest_name(name, SERVERS) or "vllm"
            raise SftError(where=f"--for {name}", problem=f"the servers are {known}", fix=f"--for {near}")
    return [server for server in SERVERS if server in names]


def serving_engine(serve: bool, engine: Engine | None, timeout: float | None) -> Engine | None:
    """Return the server to start for ``--serve``; None without it.

    Raises:
        SftError: The server is not installed, or its options are given without ``--serve``.
    """
    if serve:
        return choose_engine(engine)
    for name, value in (("--engine", engine), ("--timeout", timeout)):
        if value is not None:
            raise SftError(where=name, problem="it would have no effect without --serve", fix=f"--serve {name} {value}")
    return None
