"""Schema of ``adapter`` and ``quant``: the trained parameters and the storage of the base. Standard library only."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import bounded


class AdapterKind(str, Enum):
    """The trained parameters: a PEFT adapter on a frozen base, the base's biases, or (``none``) all weights."""

    lora = "lora"
    vera = "vera"
    ia3 = "ia3"
    oft = "oft"
    prefix = "prefix"
    prompt = "prompt"
    llama_adapter = "llama_adapter"
    bitfit = "bitfit"
    none = "none"


WHOLE = (AdapterKind.none, AdapterKind.bitfit)
"""Kinds that train the base's own weights: the result is a whole model in ``model/``, with nothing to merge."""
ALL_LINEAR = "all-linear"
"""The value of ``target_modules`` that selects every linear layer."""
MERGEABLE = (AdapterKind.lora, AdapterKind.vera, AdapterKind.ia3, AdapterKind.oft)
"""Kinds attached to layers, which can be merged into the base's weights."""
VIRTUAL = (AdapterKind.prefix, AdapterKind.prompt, AdapterKind.llama_adapter)
"""Kinds that train vectors in addition to the frozen base."""


class Init(str, Enum):
    """Initialization of the LoRA matrices; all but the first two read the base's weights or activations."""

    default = "default"
    gaussian = "gaussian"
    pissa = "pissa"
    olora = "olora"
    loftq = "loftq"
    eva = "eva"


class TrainStopToken(str, Enum):
    """Whether the embedding of the stop token is trained along with an adapter."""

    auto = "auto"
    always = "always"
    never = "never"


class QuantKind(str, Enum):
    """Storage of the frozen base weights."""

    none = "none"
    nf4 = "nf4"
    fp4 = "fp4"
    int8 = "int8"


FOUR_BITS = (QuantKind.nf4, QuantKind.fp4)
"""Kinds of storage with four bits per weight."""


@dataclass(kw_only=True)
class VeraConfig:
    """Shared random matrices, trained scales (Kopiczko et al. 2023, arXiv:2310.11454)."""

    rank: int = bounded(256, ge=1)
    """Inner width of the shared matrices."""
    initial_scale: float = bounded(0.1, gt=0)
    """Initial value of the scales of the inner width."""


@dataclass(kw_only=True)
class OftConfig:
    """Orthogonal rotations of the inputs of a layer (Qiu et al. 2023, arXiv:2306.07280)."""

    block_size: int = bounded(32, ge=2)
    """Inputs that are rotated together; it must divide the inputs of every adapted layer."""


@dataclass(kw_only=True)
class VirtualTokensConfig:
    """Trained vectors before every example.

    Prefix tuning (arXiv:2101.00190), prompt tuning (arXiv:2104.08691), LLaMA-Adapter (arXiv:2303.16199).
    """

    tokens: int = bounded(20, ge=1)
    """Number of trained vectors."""
    text: str | None = None
    """prefix, prompt: initial text, repeated or cut to the number of vectors; null draws random tokens."""
    layers: int | None = bounded(None, ge=1)
    """llama_adapter: number of last layers with vectors; null takes all."""


@dataclass(kw_only=True)
class AdapterConfig:
    """The trained parameters. By default a LoRA adapter on the linear layers of a frozen base (arXiv:2106.09685)."""

    kind: AdapterKind = AdapterKind.lora
    """lora, vera, ia3, oft, prefix, prompt, llama_adapter, bitfit (biases), or none for full fine-tuning."""
    rank: int = bounded(16, ge=1)
    """Inner width r of LoRA's update B @ A."""
    alpha: float = bounded(32.0, gt=0)
    """LoRA's update is scaled by alpha / rank."""
    dropout: float = bounded(0.0, ge=0, lt=1)
    """lora, vera: probability of dropping an input of A while training; above 0 the noise depends on the layout."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Last segments of the module names that receive an adapter; all-linear: every linear layer but the head."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA: Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Train magnitude and direction of the weights separately (DoRA: Liu et al. 2024, arXiv:2402.09353)."""
    init: Init = Init.default
    """default (B = 0), gaussian, pissa (arXiv:2404.02948), olora, loftq (2310.08659) or eva (2410.07170)."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for layers whose names end in a match: {q_proj: 4}, in a file {'.*layers\\.[0-3]\\..*': 4}."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other alphas for layers whose names end in a match."""
    lr_ratio: float = bounded(1.0, gt=0)
    """Learning rate of LoRA's B over that of its A (LoRA+: Hayou et al. 2024, arXiv:2402.12354; 16 there)."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained whole in addition to the adapter, such as [lm_head, embed_tokens]."""
    target_parameters: list[str] = field(default_factory=list)
    """lora: ends of the names of parameters outside linear layers, such as [experts.down_proj]."""
    start_from: str | None = None
    """An adapter directory, or a run, whose adapter is trained further; same kind, rank, alpha and layers."""
    frozen_adapters: list[str] = field(default_factory=list)
    """LoRA adapters or runs that are added to the base, frozen, before training; they become part of the result."""
    train: list[str] = field(default_factory=list)
    """none: regular expressions of the parameter names that are trained; empty: all of them."""
    freeze: list[str] = field(default_factory=list)
    """none: regular expressions of parameter names that are frozen."""
    router: bool = False
    """Also adapt or train the routers of mixture-of-experts layers, which are frozen otherwise."""
    vera: VeraConfig = field(default_factory=VeraConfig)
    oft: OftConfig = field(default_factory=OftConfig)
    virtual: VirtualTokensConfig = field(default_factory=VirtualTokensConfig)
    train_stop_token: TrainStopToken = TrainStopToken.auto
    """Also train the stop token's embedding: auto (if it looks untrained), always or never."""


@dataclass(kw_only=True)
class QuantConfig:
    """Quantized storage of the frozen base weights (NF4: Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: QuantKind = QuantKind.none
    """none, nf4, fp4 or int8. A checkpoint that is quantized already keeps its own storage under none."""
    double_quant: bool = True
    """Also quantize the block scales of nf4 and fp4: about 0.4 bits per parameter less."""
