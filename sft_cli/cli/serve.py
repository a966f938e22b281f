"""``sft serve``: an OpenAI-compatible endpoint for trying a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.options import Step, above_zero
from sft_cli.utils.home import expand_home


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run directory, or the directory of a model.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=1, max=65535, help="Port on the loopback interface.")
    ] = 8000,
    engine: Annotated[
        Literal["vllm", "transformers"] | None,
        typer.Option("--engine", help="The server; by default vllm if it is installed.", show_default=False),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Append complete answers as messages rows.", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", callback=above_zero, help="Time that loading may take.")
    ] = 600,
    step: Step = None,
) -> None:
    """Serve a run's model on this machine, as an OpenAI-compatible server does, until Ctrl-C.

    An adapter is merged in a temporary directory. No request leaves the machine.

    Example: sft serve runs/quickstart-20250101-120000 --record rows.jsonl
    """
    from sft_cli.serve.serve import ServeRequest, serve
    from sft_cli.serve.source import is_model
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    path = expand_home(model)
    source = path if step is None and is_model(path) else open_run_at_step(model, step, "sft serve")
    serve(ServeRequest(source, port, engine, timeout, None if record is None else expand_home(record)))
