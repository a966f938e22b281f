"""The model that ``sft chat`` talks to: a run, or a model that no run belongs to. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config
from sft_cli.eval.bare_model import BareModel, check_bare_model, evaluated_bare_model
from sft_cli.eval.evaluated import EvaluatedModel, evaluated_run
from sft_cli.eval.settings import keys_of_bare_model
from sft_cli.run_dir import RunDir

READ = ("model.path", "model.revision", "model.dtype", "model.trust_remote_code", "trainer.device", "trainer.dtype",
        "eval.max_new_tokens")  # fmt: skip
"""Keys that may differ from the run's config; anything else would have no effect."""


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """What is talked to.

    Attributes:
        name: The run, directory or hub id as typed.
        source: The run, or the model that no run belongs to.
        config: The settings of the run, or those of the model, with overrides.
    """

    name: str
    source: RunDir | BareModel
    config: Config

    @property
    def is_run(self) -> bool:
        """Whether the config is the one of the training."""
        return isinstance(self.source, RunDir)

    @property
    def has_base(self) -> bool:
        """Whether the weights before training are known."""
        return isinstance(self.source, RunDir) or self.source.is_adapter

    def evaluated(self) -> EvaluatedModel:
        """Return where the parts of the model are: weights, tokenizer with template, and stop tokens.

        Raises:
            SftError: The run has not finished; or the model has no tokenizer, no template or no stop token.
        """
        if isinstance(self.source, RunDir):
            return evaluated_run(self.source, self.config)
        return evaluated_bare_model(self.source, self.config, needs_template=True)


def open_target(
    name: str, source: RunDir | BareModel, overrides: Sequence[str], config_dirs: Sequence[str]
) -> ChatTarget:
    """Return what to talk to, with the overrides of the command line.

    Args:
        name: The run, directory or hub id as typed.
        source: The run or the model that it names.
        overrides: The KEY=VALUE settings.
        config_dirs: Directories with further recipes.

    Raises:
        SftError: An override would have no effect on a conversation, or the base of an adapter is unknown.
    """
    if isinstance(source, RunDir):
        return ChatTarget(name, source, _overridden(read_config(source.config), overrides, config_dirs, READ))
    config = _overridden(source.config(), overrides, config_dirs, keys_of_bare_model(source, READ))
    check_bare_model(source, config, "sft chat")
    return ChatTarget(name, source, config)


def _overridden(config: Config, overrides: Sequence[str], config_dirs: Sequence[str], read: Sequence[str]) -> Config:
    """Return a config with overrides, all of keys in ``read``; paths are absolute then."""
    reject_unused("sft chat", overrides, read=read, not_read={}, settable=", ".join(read))
    return absolute(with_overrides(config, overrides, config_dirs)) if overrides else config
