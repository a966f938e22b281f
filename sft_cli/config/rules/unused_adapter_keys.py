"""Keys of ``adapter`` and ``quant`` that the chosen kind does not read: typing one is told."""

from collections.abc import Callable, Collection, Iterator

from sft_cli.config.schema.adapter import FOUR_BITS, MERGEABLE, VIRTUAL, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import ConfigError


def _none_of(*kinds: AdapterKind) -> Callable[[Config], bool]:
    """Whether the kind is another than these."""
    return lambda config: config.adapter.kind not in kinds


_LORA = (
    "rank", "alpha", "rank_stabilized", "dora", "init", "rank_pattern", "alpha_pattern", "lr_ratio",
    "target_parameters",
)  # fmt: skip
_IDLE: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str, str], ...] = (
    (tuple(f"adapter.{key}" for key in _LORA), _none_of(AdapterKind.lora), "only LoRA has it", "choose adapter=lora"),
    (
        ("adapter.dropout",),
        _none_of(AdapterKind.lora, AdapterKind.vera),
        "only LoRA and VeRA have it",
        "choose adapter=lora",
    ),
    (
        ("adapter.target_modules", "adapter.modules_to_save"),
        _none_of(*MERGEABLE),
        "the kind sits on no layers",
        "choose adapter=lora",
    ),
    (
        ("adapter.router",),
        _none_of(*MERGEABLE, AdapterKind.none),
        "the kind sits on no layers",
        "choose adapter=lora",
    ),
    (
        ("adapter.train", "adapter.freeze"),
        _none_of(AdapterKind.none),
        "they choose among the base's own weights",
        "choose adapter=none",
    ),
    (("adapter.vera.",), _none_of(AdapterKind.vera), "only VeRA has it", "choose adapter=vera"),
    (("adapter.oft.",), _none_of(AdapterKind.oft), "only OFT has it", "choose adapter=oft"),
    (
        ("adapter.virtual.tokens",),
        _none_of(*VIRTUAL),
        "only prefix, prompt and llama_adapter have it",
        "choose adapter=prefix",
    ),
    (
        ("adapter.virtual.text",),
        _none_of(AdapterKind.prompt, AdapterKind.prefix),
        "only prefix and prompt tuning have it",
        "choose adapter=prompt",
    ),
    (
        ("adapter.virtual.layers",),
        _none_of(AdapterKind.llama_adapter),
        "only LLaMA-Adapter has it",
        "choose adapter=llama_adapter",
    ),
    (
        ("quant.double_quant",),
        lambda config: config.quant.kind not in FOUR_BITS,
        "only 4-bit weights have it",
        "choose quant=nf4",
    ),
)
"""Keys (a point at the end: all below), when nothing reads them, why, and what to do."""


def unused_adapter_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Keys typed on the command line that nothing would read. A recipe may carry them, for another choice of group."""
    for keys, idle, reason, fix in _IDLE:
        if not idle(config):
            continue
        without = config.adapter.kind is AdapterKind.none and fix == "choose adapter=lora"
        why = "there is no adapter" if without else reason
        for key in sorted(explicit):
            if any(key == own or key.startswith(own if own.endswith(".") else f"{own}.") for own in keys):
                yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or leave {key} out")
