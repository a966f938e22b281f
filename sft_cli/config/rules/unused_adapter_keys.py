"""Find keys of ``adapter`` and ``quant`` on the command line that the chosen kind does not read."""

from collections.abc import Callable, Collection, Iterator

from sft_cli.config.schema.adapter import FOUR_BITS, MERGEABLE, VIRTUAL, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import ConfigError


def _none_of(*kinds: AdapterKind) -> Callable[[Config], bool]:
    """Return a condition: the adapter kind is none of these."""
    return lambda config: config.adapter.kind not in kinds


_LORA = (
    "rank", "alpha", "rank_stabilized", "dora", "init", "rank_pattern", "alpha_pattern", "lr_ratio",
    "target_parameters",
)  # fmt: skip
_IDLE: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str, str], ...] = (
    (tuple(f"adapter.{key}" for key in _LORA), _none_of(AdapterKind.lora), "only LoRA reads it", "choose adapter=lora"),
    (
        ("adapter.dropout",),
        _none_of(AdapterKind.lora, AdapterKind.vera),
        "only LoRA and VeRA read it",
        "choose adapter=lora",
    ),
    (
        ("adapter.target_modules", "adapter.modules_to_save"),
        _none_of(*MERGEABLE),
        "this adapter kind is not attached to layers",
        "choose adapter=lora",
    ),
    (
        ("adapter.router",),
        _none_of(*MERGEABLE, AdapterKind.none),
        "this adapter kind is not attached to layers",
        "choose adapter=lora",
    ),
    (
        ("adapter.train", "adapter.freeze"),
        _none_of(AdapterKind.none),
        "only full fine-tuning trains the base's own weights",
        "choose adapter=none",
    ),
    (("adapter.vera.",), _none_of(AdapterKind.vera), "only VeRA reads it", "choose adapter=vera"),
    (("adapter.oft.",), _none_of(AdapterKind.oft), "only OFT reads it", "choose adapter=oft"),
    (
        ("adapter.virtual.tokens",),
        _none_of(*VIRTUAL),
        "only prefix, prompt and llama_adapter read it",
        "choose adapter=prefix",
    ),
    (
        ("adapter.virtual.text",),
        _none_of(AdapterKind.prompt, AdapterKind.prefix),
        "only prefix and prompt tuning read it",
        "choose adapter=prompt",
    ),
    (
        ("adapter.virtual.layers",),
        _none_of(AdapterKind.llama_adapter),
        "only LLaMA-Adapter reads it",
        "choose adapter=llama_adapter",
    ),
    (
        ("quant.double_quant",),
        lambda config: config.quant.kind not in FOUR_BITS,
        "only 4-bit storage reads it",
        "choose quant=nf4",
    ),
)
"""Keys (with a final dot: all keys below), condition under which they have no effect, reason, and fix."""


def unused_adapter_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect; a recipe may contain such keys."""
    for keys, idle, reason, fix in _IDLE:
        if not idle(config):
            continue
        without = config.adapter.kind is AdapterKind.none and fix == "choose adapter=lora"
        why = "there is no adapter" if without else reason
        for key in sorted(explicit):
            if any(key == own or key.startswith(own if own.endswith(".") else f"{own}.") for own in keys):
                yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or remove {key}")
