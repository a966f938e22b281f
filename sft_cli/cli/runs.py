"""``sft runs``: list the runs."""

import json
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
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only runs with these values, as in 'state=finished and held_out_loss<2': names of --json or keys of"
            " the config, = != < <= > >=, joined by and. Repeatable: all must hold.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures of the runs as JSON.")] = False,
) -> None:
    """List the runs: state, optimizer steps, last training and held-out loss, directory.

    Example: sft runs, or sft runs --where 'state=finished and trainer.lr>=1e-4' --json
    """
    from sft_cli.console import table
    from sft_cli.train.run_details import select_runs

    entries, records = select_runs(folders or [], where or [], figures=as_json)
    if as_json:
        typer.echo(json.dumps(records, ensure_ascii=False, indent=1))
        return
    if not entries:
        found = "no run matches --where" if where else "no runs yet; start with: sft train recipe=quickstart"
        typer.echo(found, err=True)
        return
    rows = [(run.state, run.step, run.loss, run.held_out, _relative_path(run.path)) for run in entries]
    table(("state", "step", "loss", "held-out loss", "run"), rows)


def _relative_path(path: Path) -> str:
    """Return a path relative to the working directory, if it is inside it."""
    directory = Path.cwd()
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)
