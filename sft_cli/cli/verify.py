"""``sft verify``: check a saved model before it is served."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.options import above_zero
from sft_cli.utils.home import expand_home


def verify(
    path: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DIR",
            help="Run directory, or a directory written by sft export or sft merge.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    servers: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="SERVERS",
            help="Servers that must take it: vllm,llama.cpp,ollama,tgi,transformers.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run that an exported directory came from.", show_default=False),
    ] = None,
    ollama_templates: Annotated[
        Path | None,
        typer.Option(
            "--ollama-templates",
            metavar="FILE",
            help="template/index.json in a checkout of Ollama.",
            show_default=False,
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Start a server for it, and compare prompts and answers with the run's.")
    ] = False,
    engine: Annotated[
        Literal["vllm", "transformers"] | None,
        typer.Option("--engine", help="The server; by default vllm if it is installed.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", callback=above_zero, help="Time that its loading may take."),
    ] = None,
) -> None:
    """Check that a saved model encodes, stops and loads as trained, and what servers refuse.

    The exit code is 3 if a check fails or a server named by --for refuses the model.

    Example: sft verify runs/quickstart-20250101-120000 --for vllm
    """
    from sft_cli.run_dir import open_run
    from sft_cli.verify.request import parse_servers, serving_engine
    from sft_cli.verify.verify import verify_path

    opened = None if run is None else open_run(str(run), "sft verify DIR --run")
    served_by = serving_engine(serve, engine, timeout)
    found = verify_path(expand_home(path), opened, parse_servers(servers), ollama_templates, served_by, timeout or 600)
    raise typer.Exit(found)
