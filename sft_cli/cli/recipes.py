"""``sft recipes``: list the recipes."""

from typing import Annotated

import typer

from sft_cli.cli.completion import complete_recipe
from sft_cli.cli.options import ConfigDirs
from sft_cli.console import say


def recipes(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Recipes to print in full; without a name, all are listed.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """List the recipes of the package, of ./recipes and of -d DIR.

    Example: sft recipes alpaca_qlora
    """
    from sft_cli.config import explain

    say(explain.describe_recipes(names or [], config_dir or []))
