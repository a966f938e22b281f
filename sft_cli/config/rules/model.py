"""Rules of added tokens and of prefix tuning, which involve several groups of the config."""

from collections.abc import Iterator

from sft_cli.config.schema.adapter import VIRTUAL, AdapterConfig, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.validate import ConfigError

_KEY = "model.add_tokens"
_FREE = (Checkpointing.auto, Checkpointing.none)


def check_model_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``model`` with other keys."""
    yield from _check_tokens(_KEY, config.model.add_tokens, "[<tool>,</tool>]")
    yield from _check_tokens("data.content_tokens", config.data.content_tokens, "[<|plan|>]")
    if config.model.add_tokens:
        yield from _check_embedding_training(config.adapter)
    yield from _check_prefix(config)


def _check_tokens(key: str, tokens: list[str], example: str) -> Iterator[ConfigError]:
    """Yield an error for each token that is blank or listed twice."""
    for token in dict.fromkeys(tokens):
        if not token.strip():
            yield ConfigError(key, f"{key} holds {token!r}, which is not a token", f"write tokens such as {example}")
        elif tokens.count(token) > 1:
            yield ConfigError(key, f"{key} holds {token!r} {tokens.count(token)} times", "write it once")


def _check_embedding_training(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield an error for an adapter that would leave the embeddings of new tokens untrained, all equal."""
    kind = adapter.kind
    trains_rows = kind in (AdapterKind.lora, AdapterKind.none)
    trains_module = bool(adapter.modules_to_save) and kind not in (*VIRTUAL, AdapterKind.bitfit)
    if not trains_rows and not trains_module:
        yield ConfigError(
            _KEY,
            f"{_KEY} is set with adapter.kind {kind.value}, which does not train the embeddings of new tokens",
            "choose adapter=lora or adapter=none, or remove model.add_tokens",
            clash="adapter.kind",
        )


def _check_prefix(config: Config) -> Iterator[ConfigError]:
    """Yield an error for checkpointing with a prefix, whose cache transformers drops when it recomputes a layer."""
    checkpointing = config.speed.gradient_checkpointing
    if config.adapter.kind is AdapterKind.prefix and checkpointing not in _FREE:
        yield ConfigError(
            "speed.gradient_checkpointing",
            f"speed.gradient_checkpointing is {checkpointing.value} with adapter.kind prefix, whose keys and values"
            " are a cache that recomputed layers do not read",
            "set speed.gradient_checkpointing=none, or choose adapter=prompt",
            clash="adapter.kind",
        )
