"""``sft runs``: the runs that there are."""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER", help="Folders to look in; by default those that runs are written to.", show_default=False
        ),
    ] = None,
) -> None:
    """List the runs: state, optimizer steps, last training and validation loss, directory.

    Example: sft runs
    """
    from sft_cli.console import table
    from sft_cli.train.run_list import list_runs

    found = list_runs(folders or [])
    if not found:
        typer.echo("no runs yet; begin with: sft train recipe=quickstart", err=True)
        return
    rows = [(one.state, one.step, one.loss, one.held_out, _shown(one.path)) for one in found]
    table(("state", "step", "loss", "validation loss", "run"), rows)


def _shown(path: Path) -> str:
    """A path as it is typed from the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
