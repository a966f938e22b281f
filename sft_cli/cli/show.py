"""``sft show``: print the config of a command, or the valid keys."""

from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Overrides


def show(
    overrides: Overrides = None,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            help="List groups with their options, and keys with type, limits, default and meaning: all, or"
            " those with a PATTERN in their name, as in sft show --keys lr.",
        ),
    ] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only values that are not the default.")] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Print the config of a command, and the origin of each value.

    Example: sft show recipe=quickstart trainer.lr=1e-3 --changed, or sft show --keys warmup
    """
    from sft_cli.config import explain

    text = (
        explain.describe_keys(overrides or [])
        if keys
        else explain.show_config(overrides or [], config_dir or [], changed=changed)
    )
    typer.echo(text)
