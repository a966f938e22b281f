"""Rules of added tokens and of trained vectors before every example, which cross the groups of the config."""

from collections.abc import Iterator

from sft_cli.config.schema.adapter import VIRTUAL, AdapterConfig, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.validate import Mistake

_KEY = "model.add_tokens"
_FREE = (Checkpointing.auto, Checkpointing.none)


def model_rules(config: Config) -> Iterator[Mistake]:
    """What does not fit together."""
    yield from _tokens(_KEY, config.model.add_tokens, "[<tool>,</tool>]")
    yield from _tokens("data.content_tokens", config.data.content_tokens, "[<|plan|>]")
    if config.model.add_tokens:
        yield from _rows(config.adapter)
    yield from _prefix(config)


def _tokens(key: str, tokens: list[str], such_as: str) -> Iterator[Mistake]:
    """Tokens that are none, or that are listed twice."""
    for token in dict.fromkeys(tokens):
        if not token.strip():
            yield Mistake(key, f"{key} holds {token!r}, which is no token", f"write tokens such as {such_as}")
        elif tokens.count(token) > 1:
            yield Mistake(key, f"{key} holds {token!r} {tokens.count(token)} times", "write it once")


def _rows(adapter: AdapterConfig) -> Iterator[Mistake]:
    """Kinds that would leave the rows of new tokens as they begin, all alike."""
    kind = adapter.kind
    trained = kind in (AdapterKind.lora, AdapterKind.none)
    whole = bool(adapter.modules_to_save) and kind not in (*VIRTUAL, AdapterKind.bitfit)
    if not trained and not whole:
        yield Mistake(
            _KEY,
            f"{_KEY} is set with adapter.kind {kind.value}, which does not train the embeddings of new tokens",
            "choose adapter=lora or adapter=none, or leave model.add_tokens out",
            clash="adapter.kind",
        )


def _prefix(config: Config) -> Iterator[Mistake]:
    """A prefix is a cache, and transformers drops the cache of a layer that is computed again."""
    asked = config.speed.gradient_checkpointing
    if config.adapter.kind is AdapterKind.prefix and asked not in _FREE:
        yield Mistake(
            "speed.gradient_checkpointing",
            f"speed.gradient_checkpointing is {asked.value} with adapter.kind prefix, whose keys and values are a"
            " cache, which layers that are computed again do not read",
            "set speed.gradient_checkpointing=none, or choose adapter=prompt",
            clash="adapter.kind",
        )
