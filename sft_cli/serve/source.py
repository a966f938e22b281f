"""The model directory that a server loads: a plain model, a run's own weights, or a run's merged adapter."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft_cli.config.compose import read_config
from sft_cli.config.schema.adapter import WHOLE, Init
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.merge.checks import check_mergeable
from sft_cli.run_dir import RunDir


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model directory for a server.

    Attributes:
        name: The name under which it is served.
        folder: A temporary directory with an entry of that name, which is the model.
        trust_remote_code: Whether the server may run code from the directory.
    """

    name: str
    folder: Path
    trust_remote_code: bool

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self.folder / self.name


def is_model(directory: Path) -> bool:
    """Return whether a directory holds a whole model, also inside a run, and is no run."""
    return (directory / "config.json").is_file() and not (directory / "config.yaml").is_file()


def check_source(source: RunDir | Path) -> None:
    """Refuse what no server loads, before anything is started.

    Raises:
        SftError: The run has no result, or an adapter that cannot be merged; the directory is no model.
    """
    if isinstance(source, RunDir):
        config = read_config(source.config)
        if config.adapter.kind in WHOLE:
            _ = source.result
        else:
            check_mergeable(source, config, _base_weights(config.adapter.init), source.path / ".served")
    elif not is_model(source):
        raise SftError(
            where=str(source),
            problem="there is no model (config.json)",
            fix="sft serve RUN, or sft serve DIR that sft merge or sft export --to merged wrote",
        )


@contextmanager
def servable(source: RunDir | Path, folder: Path) -> Iterator[ServedModel]:
    """Yield the model of a run or a directory; an adapter is merged into ``folder``.

    Args:
        source: A run, or the directory of a plain model.
        folder: An empty temporary directory, which the caller removes.

    Raises:
        SftError: The adapter cannot be merged.
    """
    directory = source.path if isinstance(source, RunDir) else source
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).strip("-.") or "model"
    served = ServedModel(name, folder, False)
    if isinstance(source, RunDir):
        config = read_config(source.config)
        served = ServedModel(name, folder, config.model.trust_remote_code)
        if config.adapter.kind in WHOLE:
            directory = source.result
        else:
            from sft_cli.merge.merge import build_merged
            from sft_cli.merge.plan import check_disk_space, make_merge_plan

            say("merging   the adapter in a temporary directory")
            plan = make_merge_plan(source, config, _base_weights(config.adapter.init))
            check_disk_space(plan, served.directory)
            build_merged(plan, config, served.directory, out=served.directory, max_kl=None)
            yield served
            return
    served.directory.symlink_to(directory.resolve(), target_is_directory=True)
    yield served


def _base_weights(init: Init) -> str:
    """Return which base weights an adapter belongs to; LoftQ's compensates the rounding of the quantized ones."""
    return "dequantized" if init is Init.loftq else "original"
