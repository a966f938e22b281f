"""`sft train`: find out what to run, prepare the data, and only then load torch."""

from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.check import required
from sft_cli.config.compose import compose, dump, load, with_overrides
from sft_cli.config.paths import default_run_dir
from sft_cli.config.rundir import RunDir, open_run
from sft_cli.config.schema import Config
from sft_cli.console import say
from sft_cli.data.prepare import prepare
from sft_cli.errors import SftError


def train_command(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Body of ``sft train``: a new run, or ``run=DIR`` to resume one."""
    own = [word.removeprefix("run=") for word in overrides if word.startswith("run=")]
    rest = [word for word in overrides if not word.startswith("run=")]
    directory, config = _resumed(own[-1], rest) if own else _new(rest, config_dirs)
    required(config)
    prepared = prepare(config)
    from sft_cli.train.session import train

    train(config, prepared, directory)


def _new(overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[RunDir, Config]:
    """A new run's directory (not made yet) and config."""
    config = compose(overrides, config_dirs)
    directory = RunDir(Path(config.run_dir).expanduser() if config.run_dir else default_run_dir(config.run_name))
    if directory.metrics.exists() or directory.checkpoints.exists() or directory.config.exists():
        raise SftError(
            where=f"run_dir={directory.path}",
            problem="a run lies there already",
            fix=f"resume it with sft train run={directory.path}, or choose another run_dir",
        )
    return directory, config


def _resumed(path: str, overrides: Sequence[str]) -> tuple[RunDir, Config]:
    """An earlier run's directory and config."""
    directory = open_run(path)
    config = load(directory.config)
    if overrides:
        config = with_overrides(config, overrides)
    if directory.adapter.is_dir() or directory.model.is_dir():
        say(f"run       {directory.path} is finished: {directory.result}")
        raise SystemExit(0)
    return directory, config


def write_config(directory: RunDir, config: Config) -> None:
    """Keep the resolved config, unless the directory has it (a resumed or submitted run)."""
    directory.path.mkdir(parents=True, exist_ok=True)
    if not directory.config.exists():
        directory.config.write_text(dump(config), encoding="utf-8")
