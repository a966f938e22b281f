"""``sft show``: print the config of a command, or the valid keys."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home


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
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known of a run as JSON.")] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Print the config of a command and the origin of each value, or what a run directory holds.

    Example: sft show recipe=quickstart trainer.lr=1e-3 --changed, or sft show --keys warmup, or sft show RUN
    """
    from sft_cli.config import explain

    words = overrides or []
    if (directory := _run_directory(words)) is not None:
        _refuse_with_run(directory, words, {"--keys": keys, "--changed": changed, "--config-dir": bool(config_dir)})
        _show_run(directory, as_json=as_json)
        return
    if as_json:
        fix = "name a run directory: sft show RUN --json, or remove --json"
        raise SftError(where="--json", problem="only what is known of a run is printed as JSON", fix=fix)
    text = explain.describe_keys(words) if keys else explain.show_config(words, config_dir or [], changed=changed)
    typer.echo(text)


def _run_directory(words: Sequence[str]) -> str | None:
    """Return the first word that names a run directory; None without one."""
    directories = [word for word in words if "=" not in word and expand_home(word).is_dir()]
    files = ("config.yaml", "environment.json")
    return next((one for one in directories if any((expand_home(one) / name).is_file() for name in files)), None)


def _refuse_with_run(directory: str, words: Sequence[str], options: Mapping[str, bool]) -> None:
    """Refuse other words and options next to a run directory.

    Raises:
        SftError: There are some.
    """
    others = [*(word for word in words if word != directory), *(name for name, given in options.items() if given)]
    if others:
        problem = "a run is shown as it is; keys and options of a config have no effect on it"
        raise SftError(where=" ".join(others), problem=problem, fix=f"sft show {shlex.quote(directory)}")


def _show_run(directory: str, *, as_json: bool) -> None:
    """Print what is known of a run."""
    from sft_cli.run_dir import open_run
    from sft_cli.train.run_details import run_details
    from sft_cli.train.show_run import print_run
    from sft_cli.utils.mappings import nan_to_none

    details = run_details(open_run(directory, "sft show"))
    if as_json:
        typer.echo(json.dumps(nan_to_none(details), ensure_ascii=False, indent=1, default=str))
    else:
        print_run(details)
