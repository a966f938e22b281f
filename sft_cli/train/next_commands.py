"""The commands that can be run after a finished run; without torch."""

import shlex
from collections.abc import Iterator

from sft_cli.config.schema.adapter import MERGEABLE, Init
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.run_dir import RunDir


def has_held_out_rows(directory: RunDir) -> bool:
    """Return whether a run held out rows; false if its manifest is missing."""
    file = directory.manifest
    return file.is_file() and directory.read_json(file)["splits"]["validation"]["examples"] > 0


def print_next_commands(commands: Iterator[str]) -> None:
    """Print commands, the first after the label ``next``."""
    for number, line in enumerate(commands):
        say(f"{'' if number else 'next':<9} {line}")


def print_stopped(directory: RunDir, step: int) -> None:
    """Print that a run was stopped after a saved step, and what can be done with it."""
    run = shlex.quote(str(directory.path))
    say(f"stopped   after step {step}, saved; resume with: sft train --resume {run}")
    say(f"          or end the run here, with its best weights: sft stop {run} --export")


def next_commands(config: Config, directory: RunDir, *, held_out: bool) -> Iterator[str]:
    """Yield the commands that can be run after this run."""
    run = shlex.quote(str(directory.path))
    yield f"sft chat {run}"
    if held_out:
        yield f"sft eval {run} --compare base"
    if config.adapter.kind in MERGEABLE:
        # LoftQ's adapter compensates the rounding of the 4-bit base, so it fits only the dequantized weights.
        into = " --into dequantized" if config.adapter.init is Init.loftq else ""
        yield f"sft merge {run} --out {shlex.quote(str(directory.path / 'merged'))}{into}"
