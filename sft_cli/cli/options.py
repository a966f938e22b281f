"""Arguments and options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

from sft_cli.cli.completion import complete_override, complete_run

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Config keys: recipe=NAME or recipe=FILE.yaml, data=FILE (or FILE alone), model=DIR_OR_HUB_ID,"
        " adapter=NAME, quant=NAME, trainer.lr=1e-4. `sft show --keys` lists all keys,"
        " `sft show --keys lr` those that match.",
        show_default=False,
        autocompletion=complete_override,
    ),
]
RunOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Config keys of the run to change for this command, such as trainer.device=cpu.",
        show_default=False,
        autocompletion=complete_override,
    ),
]
ConfigDirs = Annotated[
    list[str] | None,
    typer.Option(
        "--config-dir",
        "-d",
        metavar="DIR",
        help="Directory with further recipes, or with folders of options (data/, trainer/). Repeatable.",
        show_default=False,
    ),
]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory, as sft train printed it.",
        show_default=False,
        autocompletion=complete_run,
    ),
]
Step = Annotated[
    int | None,
    typer.Option("--step", metavar="N", min=0, help="Use a saved step instead of the final result."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Directory to write to; it must be new.")]


def above_zero(value: float | None) -> float | None:
    """Return the number unchanged.

    Raises:
        typer.BadParameter: The number is not finite or not above 0.
    """
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} is not a number above 0")
    return value
