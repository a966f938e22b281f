"""``sft import``: a recipe from the config of another tool."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.utils.home import expand_home


def import_config(
    config: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Config of axolotl, LLaMA-Factory or TRL; or a command in quotes: 'trl sft --model_name_or_path …'.",
            show_default=False,
        ),
    ],
    tool: Annotated[
        Literal["axolotl", "llama-factory", "trl"] | None,
        typer.Option(
            "--from",
            metavar="TOOL",
            help="The tool of the config, axolotl, llama-factory or trl; by default it is recognized.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Recipe to write; it must be new.")] = Path(
        "recipe.yaml"
    ),
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", metavar="N", min=1, help="GPUs of the run there; by default 1.", show_default=False),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", metavar="N", min=1, help="Training rows, to translate numbers of steps.", show_default=False
        ),
    ] = None,
    row_tokens: Annotated[
        int | None,
        typer.Option(
            "--row-tokens",
            metavar="N",
            min=1,
            help="Mean tokens of a row, to translate batches of packed rows.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a recipe from a config of axolotl, LLaMA-Factory or TRL, and list what became of each key.

    Example: sft import config.yml --gpus 4 --out mine.yaml
    """
    from sft_cli.importing.import_config import import_config as write

    write(config, tool, expand_home(out), gpus=gpus, rows=rows, row_tokens=row_tokens)
