"""Rules of added tokens and of trained vectors before every example, which cross the groups of the config."""

from collections.abc import Iterator

from sft_cli.config.schema.adapter import VIRTUAL, AdapterConfig, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.validate import ConfigError

_KEY = "model.add_tokens"
_FREE = (Checkpointing.auto, Checkpointing.none)


def check_model_keys(config: Config) -> Iterator[ConfigError]:
    """What does not fit together."""
    yield from _check_tokens(_KEY, config.model.add_tokens, "[<tool>,</tool>]")
    yield from _check_tokens("data.content_tokens", config.data.content_tokens, "[<|plan|>]")
    if config.model.add_tokens:
        yield from _check_embedding_training(config.adapter)
    yield from _check_prefix(config)


def _check_tokens(key: str, tokens: list[str], such_as: str) -> Iterator[ConfigError]:
    """Tokens that are none, or that are listed twice."""
    for token in dict.fromkeys(tokens):
        if not token.strip():
            yield ConfigError(key, f"{key} holds {token!r}, which is no token", f"write tokens such as {such_as}")
        elif tokens.count(token) > 1:
            yield ConfigError(key, f"{key} holds {token!r} {tokens.count(token)} times", "write it once")


def _check_embedding_training(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Kinds that would leave the rows of new tokens as they begin, all alike."""
    kind = adapter.kind
    trained = kind in (AdapterKind.lora, AdapterKind.none)
    whole = bool(adapter.modules_to_save) and kind not in (*VIRTUAL, AdapterKind.bitfit)
    if not trained and not whole:
        yield ConfigError(
            _KEY,
            f"{_KEY} is set with adapter.kind {kind.value}, which does not train the embeddings of new tokens",
            "choose adapter=lora or adapter=none, or leave model.add_tokens out",
            clash="adapter.kind",
        )


def _check_prefix(config: Config) -> Iterator[ConfigError]:
    """A prefix is a cache, and transformers drops the cache of a layer that is computed again."""
    asked = config.speed.gradient_checkpointing
    if config.adapter.kind is AdapterKind.prefix and asked not in _FREE:
        yield ConfigError(
            "speed.gradient_checkpointing",
            f"speed.gradient_checkpointing is {asked.value} with adapter.kind prefix, whose keys and values are a"
            " cache, which layers that are computed again do not read",
            "set speed.gradient_checkpointing=none, or choose adapter=prompt",
            clash="adapter.kind",
        )
