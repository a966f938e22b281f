"""Schema of ``loss`` and ``trainer``: the objective and the training loop. Standard library only."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import Auto, bounded


class Dtype(str, Enum):
    """A floating-point type; ``auto`` chooses by device and purpose."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(str, Enum):
    """The device that computes; ``auto`` takes CUDA if there is any."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Reduction(str, Enum):
    """The mean that is the loss of a step: over its trained tokens, or over its examples."""

    token = "token"
    example = "example"


class Schedule(str, Enum):
    """Learning-rate schedules, after a linear warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    cosine_with_min_lr = "cosine_with_min_lr"
    inverse_sqrt = "inverse_sqrt"
    polynomial = "polynomial"
    wsd = "wsd"


class OptimizerName(str, Enum):
    """AdamW, its 8-bit kinds (bitsandbytes; the paged one on CUDA only), Adafactor, Muon (full tuning), Lion."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    adafactor = "adafactor"
    muon = "muon"
    lion = "lion"


class Average(str, Enum):
    """Averaging of the trained weights over steps; the average is evaluated and exported."""

    none = "none"
    ema = "ema"
    last = "last"


class OnNan(str, Enum):
    """The treatment of a step whose loss or gradient is not finite: end the run, or skip the update."""

    stop = "stop"
    skip = "skip"


class ProbeMetric(str, Enum):
    """The metric of a retention probe."""

    loss = "loss"
    exact_match = "exact_match"


@dataclass(kw_only=True)
class LossConfig:
    """The objective. Every term is a mean over the same trained tokens, and is logged separately."""

    reduction: Reduction = Reduction.token
    """Mean over the trained tokens of a step, or over its examples (each the mean of its tokens)."""
    label_smoothing: float = bounded(0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over the vocabulary (arXiv:1512.00567)."""
    z_loss: float = bounded(0.0, ge=0)
    """Factor on the squared logarithm of the softmax's denominator (PaLM: arXiv:2204.02311; 1e-4 there)."""
    dft: bool = False
    """Weight every token's loss by its own probability, as a constant (DFT: arXiv:2508.05629)."""
    kl: float = bounded(0.0, ge=0)
    """Beta on KL(base || model) at the trained positions; base: the adapter off, or a frozen copy of the trained
    weights."""
    neftune: float = bounded(0.0, ge=0)
    """Alpha of uniform noise on the embeddings while training (NEFTune: arXiv:2310.05914); 5 to 15 there."""
    replay: float | None = bounded(None, ge=0)
    """Lambda: the mean loss of the replayed sources' tokens times lambda is added; null: they count as other tokens."""
    router: float | None = bounded(None, ge=0)
    """Factor on the load-balancing loss of mixture-of-experts models; null takes the model's own, if it has one."""


@dataclass(kw_only=True)
class ProbeConfig:
    """One ability of the base model that training should preserve."""

    path: str | None = None
    """File of rows, in any format that data.mix takes."""
    metric: ProbeMetric = ProbeMetric.loss
    """loss (nats a trained token, lower is better) or exact_match (share of answers, higher is better)."""
    max_drop: float = bounded(0.05, ge=0)
    """Largest loss of quality against the base: relative for loss, absolute for exact_match."""
    max_rows: int = bounded(200, ge=1)
    """Examples used, the first by row order."""


@dataclass(kw_only=True)
class RetentionConfig:
    """A guard against forgetting: probes evaluated before training and during it."""

    probes: dict[str, ProbeConfig] = field(default_factory=dict)
    """Probes by name."""
    every: int | None = bounded(None, ge=1)
    """Steps between measurements, plus the last step; null measures whenever the held-out rows are evaluated."""
    stop: bool = False
    """Stop training, after saving a checkpoint and with exit code 3, when a probe is worse than its max_drop allows."""


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop."""

    max_length: int = bounded(2048, ge=8)
    """Longest example, in tokens; see data.overflow."""
    examples_per_step: Auto | int = bounded(Auto.auto, ge=1)
    """Examples per optimizer step, for any layout and number of devices; auto: 4 to 64, for 50 steps an epoch."""
    lr: Auto | float = bounded(Auto.auto, gt=0)
    """Peak learning rate; auto: 2e-4; 2e-5 for adapter=none, 1e-3 for bitfit, 1e-2 for vera, ia3, prefix and prompt."""
    lr_factors: dict[str, float] = field(default_factory=dict)
    """Factors on lr by regular expression on parameter names; the first match wins: {embed_tokens: 0.1}."""
    schedule: Schedule = Schedule.cosine
    """Learning-rate schedule after the warm-up."""
    warmup_ratio: float = bounded(0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly."""
    decay_ratio: float = bounded(0.2, gt=0, le=1)
    """wsd: share of all steps, at the end, over which the learning rate falls linearly (arXiv:2404.06395)."""
    min_lr_ratio: float = bounded(0.1, ge=0, lt=1)
    """Floor of the schedules cosine_with_min_lr, polynomial (linear) and wsd as a share of lr."""
    optimizer: OptimizerName = OptimizerName.adamw
    """adamw, adamw_8bit, paged_adamw_8bit (CUDA), adafactor, muon (full tuning) or lion (needs about a third of the
    lr)."""
    weight_decay: float = bounded(0.0, ge=0)
    """Decoupled weight decay of matrices; vectors never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments, also for the parameters that Muon leaves to AdamW."""
    lion_betas: tuple[float, float] = (0.9, 0.99)
    """Lion: the momentum's share in the direction, and in the next momentum (arXiv:2302.06675)."""
    max_grad_norm: float = bounded(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 never clips."""
    on_nan: OnNan = OnNan.stop
    """Treatment of a step whose loss or gradient is not finite: stop the run, or skip its update; its rows are
    named."""
    spike_factor: float = bounded(4.0, gt=1)
    """A loss above this factor times the median of the last 32 is recorded, with its rows, in spikes.jsonl."""
    average: Average = Average.none
    """Evaluate and export averaged weights: none, ema (exponential) or last (of the last average_last steps)."""
    ema_decay: float = bounded(0.999, gt=0, lt=1)
    """ema: share of the old average kept at each step, with bias correction for the first steps."""
    average_last: int = bounded(10, ge=2)
    """last: number of averaged steps, each stored in float32: 4 bytes a step for every trained parameter."""
    epochs: Auto | int = bounded(Auto.auto, ge=1)
    """Passes over the training rows; auto: 3 below 10,000 examples and for adapter=none, else 1."""
    max_steps: int | None = bounded(None, ge=1)
    """Stop after this many optimizer steps, regardless of epochs."""
    seed: int = bounded(42, ge=0)
    """Seed of order, splits and initialization."""
    eval_every: int | None = bounded(None, ge=1)
    """Steps between evaluations; null evaluates at the end of every epoch."""
    eval_suites: list[str] = field(default_factory=list)
    """Names of suites of eval.suites that are asked at each evaluation, besides the held-out rows."""
    eval_suite_items: int = bounded(50, ge=1)
    """Largest number of items of each of these suites, always the same ones; clusters stay whole."""
    save_every: int | None = bounded(None, ge=1)
    """Steps between checkpoints; null saves at the end of every epoch."""
    keep_checkpoints: int = bounded(2, ge=1)
    """Newest checkpoints to keep, in addition to the best one."""
    patience: int | None = bounded(None, ge=1)
    """Stop after this many evaluations without a better held-out loss, or trainer.best; null never stops early."""
    keep_best: bool = True
    """Export the weights with the best held-out loss, or the best trainer.best, not the last ones."""
    best: str | None = None
    """The figure whose highest value is the best, such as "0.5*ifeval.prompt_strict - heldout.loss", from suites of
    trainer.eval_suites with + - * ( ); null: the lowest held-out loss."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    device: Device = Device.auto
    """auto, cpu or cuda."""
    dtype: Dtype = Dtype.auto
    """Compute type; auto: bfloat16 on CUDA GPUs that support it (else float16) and, for an adapter on a model of width
    256 or more, on CPUs with AVX512-BF16 or AMX; float32 otherwise."""
    deterministic: bool = False
    """Use only GPU operations that add in a fixed order: a resumed run then equals an uninterrupted one; slower."""
