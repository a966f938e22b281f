"""The model that ``sft chat`` talks to: a run, a model directory, an exported adapter, or a model of the hub."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir

READ = ("model.path", "model.revision", "model.dtype", "model.trust_remote_code", "trainer.device", "trainer.dtype",
        "eval.max_new_tokens")  # fmt: skip
"""Keys that may differ from the run's config; anything else would have no effect."""


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """What is talked to.

    Attributes:
        name: The run, directory or hub id as typed.
        config: The settings of the run, or those of a model that no run belongs to.
        run: The run; None for any other model.
        adapter: The directory of an exported adapter; None for any other model.
    """

    name: str
    config: Config
    run: RunDir | None = None
    adapter: Path | None = None

    @property
    def directory(self) -> Path | None:
        """The directory of the tokenizer and the stop tokens of a model or an adapter; None on the hub or in a run."""
        path = Path(self.name).expanduser()
        return None if self.run is not None or not path.is_dir() else path


def is_model(name: str) -> bool:
    """Return whether a name is a model or adapter that no run belongs to: a directory, or a hub id ``owner/name``."""
    path = Path(name).expanduser()
    if path.exists():
        path = path.absolute()
        inside = any((folder / "config.yaml").is_file() for folder in (path, *path.parents))
        return not inside and any((path / file).is_file() for file in ("config.json", "adapter_config.json"))
    owner, slash, model = name.partition("/")
    return (
        bool(slash and owner and model)
        and "/" not in model
        and not name.startswith((".", "~"))
        and not Path(owner).exists()
    )


def open_target(name: str, run: RunDir | None, overrides: Sequence[str], config_dirs: Sequence[str]) -> ChatTarget:
    """Return what to talk to, with the overrides of the command line.

    Args:
        name: The run, directory or hub id as typed.
        run: The run, if it is one.
        overrides: The KEY=VALUE settings.
        config_dirs: Directories with further recipes.

    Raises:
        SftError: An override would have no effect on a conversation, or an adapter does not name its base.
    """
    reject_unused("sft chat", overrides, read=READ, not_read={}, settable=", ".join(READ))
    if run is not None:
        return ChatTarget(name, _overridden(read_config(run.config), overrides, config_dirs), run)
    path = Path(name).expanduser()
    if not (path / "adapter_config.json").is_file():
        config = Config(model=ModelConfig(path=str(path.absolute()) if path.is_dir() else name))
        return ChatTarget(name, _overridden(config, overrides, config_dirs))
    saved = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    base = saved.get("base_model_name_or_path")
    config = _overridden(Config(model=ModelConfig(path=base)), overrides, config_dirs)
    if not config.model.path:
        problem = "the adapter does not name the model it was trained on"
        raise SftError(where=str(path), problem=problem, fix=f"sft chat {name} model.path=DIR_OR_HUB_ID")
    template = replace(config.template, path=None)
    return ChatTarget(name, replace(config, template=template), adapter=path.absolute())


def _overridden(config: Config, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return a config with overrides; paths are absolute then."""
    return absolute(with_overrides(config, overrides, config_dirs)) if overrides else config
