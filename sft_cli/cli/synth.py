"""``sft synth``: make rows with a teacher."""

from pathlib import Path
from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.utils.home import expand_home

STOPPED = 3
"""Exit code if a limit of tokens or cost stopped it."""
READ = ("recipe", "synth", "run_name", "template", "trainer.device")
"""Keys that the command line may set; a recipe may contain others, for training."""


def synth(
    overrides: Overrides = None,
    preview: Annotated[
        int | None,
        typer.Option("--preview", metavar="N", min=1, help="Show N rows, and the requests and cost of the whole."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Directory of the rows; default synth/RUN_NAME."),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Make rows with a teacher: a local model, or any OpenAI-compatible endpoint.

    Writes rows.jsonl, which sft prepare reads, and manifest.json. Each reply is in journal.jsonl before it is used: the
    same command continues where it was cut. The exit code is 3 if synth.max_cost or synth.max_tokens is reached.

    Example: sft synth synth=reject synth.prompts.path=rows.jsonl synth.teacher.model=runs/a --preview 5
    """
    from sft_cli.cli.loading import slow_imports
    from sft_cli.config.compose import compose
    from sft_cli.config.overrides.parse import reject_unused
    from sft_cli.config.paths import absolute
    from sft_cli.progress import status

    reject_unused("sft synth", overrides or [], read=READ, not_read={}, settable=f"{', '.join(READ[1:])}")
    config = absolute(compose(overrides or [], config_dir or []))
    status("loading   the teacher")
    with slow_imports():
        from sft_cli.synth.synth import default_dir, make_rows

    complete = make_rows(config, default_dir(config.run_name) if out is None else expand_home(out), preview)
    raise typer.Exit(0 if complete else STOPPED)
