"""``sft runs``: list the runs."""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folders to search; by default the working directory and those that runs are written to.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the runs: state, optimizer steps, last training and held-out loss, directory.

    Example: sft runs
    """
    from sft_cli.console import table
    from sft_cli.train.run_list import list_runs

    entries = list_runs(folders or [])
    if not entries:
        typer.echo("no runs yet; start with: sft train recipe=quickstart", err=True)
        return
    rows = [(run.state, run.step, run.loss, run.held_out, _relative_path(run.path)) for run in entries]
    table(("state", "step", "loss", "held-out loss", "run"), rows)


def _relative_path(path: Path) -> str:
    """Return a path relative to the working directory, if it is inside it."""
    directory = Path.cwd()
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)
