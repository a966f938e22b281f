"""The schema of a run. Plain dataclasses: this file imports no torch, no Hydra, no OmegaConf.

A field's type and its ``number``/``choice`` limits are checked while composing, all mistakes at once; the string
under a field is its documentation and what ``sft show --keys`` prints.
"""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.clean_schema import CleanConfig
from sft_cli.config.data_schema import DataConfig
from sft_cli.config.fields import number


class Dtype(str, Enum):
    """A floating-point type; ``auto`` chooses by device and purpose."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(str, Enum):
    """Where the model computes; ``auto`` takes CUDA when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class AdapterKind(str, Enum):
    """What is trained: a LoRA adapter, or (``none``) every weight."""

    lora = "lora"
    none = "none"


class StopRow(str, Enum):
    """Whether the stop token's embedding rows are trained beside a LoRA adapter."""

    auto = "auto"
    always = "always"
    never = "never"


class QuantKind(str, Enum):
    """Storage of the frozen base weights."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"


class Reduction(str, Enum):
    """What the loss of a step is a mean over: its trained tokens, or its examples."""

    token = "token"
    example = "example"


class Schedule(str, Enum):
    """Learning-rate schedules of transformers, after a linear warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    cosine_with_min_lr = "cosine_with_min_lr"
    inverse_sqrt = "inverse_sqrt"
    polynomial = "polynomial"


class OptimizerName(str, Enum):
    """AdamW of torch, or the 8-bit and paged 8-bit AdamW of bitsandbytes (CUDA only)."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"


class LauncherKind(str, Enum):
    """Who starts the process: this shell, or SLURM."""

    local = "local"
    slurm = "slurm"


@dataclass(kw_only=True)
class ModelConfig:
    """The base model."""

    path: str | None = None
    """Directory, hub id, or ``builtin:quickstart/model``."""
    tokenizer: str | None = None
    """Directory or hub id of the tokenizer; null takes the model's own."""
    revision: str | None = None
    """Hub revision: branch, tag or commit."""
    dtype: Dtype = Dtype.auto
    """Type of the loaded weights; auto: trainer.dtype under an adapter, float32 master weights for full fine-tuning."""
    trust_remote_code: bool = False
    """Run Python code that ships with the model. Only for authors you trust."""


@dataclass(kw_only=True)
class TemplateConfig:
    """How a conversation becomes text."""

    name: str = "auto"
    """auto takes the tokenizer's own chat template; otherwise one of this package's. A file of yours goes to path."""
    path: str | None = None
    """A Jinja chat template of your own; it wins over name."""
    input_separator: str = "\n\n"
    """What stands between instruction and input of an Alpaca row."""
    variables: dict[str, str | bool] = field(default_factory=dict)
    """Values a template reads beside messages and tools, such as {enable_thinking: false}; servers must send them."""


@dataclass(kw_only=True)
class AdapterConfig:
    """A LoRA adapter on the linear layers of a frozen base (Hu et al. 2021, arXiv:2106.09685)."""

    kind: AdapterKind = AdapterKind.lora
    """lora, or none for full fine-tuning."""
    rank: int = number(16, ge=1)
    """Inner width r of the update B @ A."""
    alpha: float = number(32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = number(0.0, ge=0, lt=1)
    """Probability of dropping an input of A while training; above 0 the noise depends on the layout."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Last segments of the module names that receive an adapter; all-linear: every linear layer but the head."""
    train_stop_row: StopRow = StopRow.auto
    """Train the stop token's embedding rows too; auto: when they look untrained."""


@dataclass(kw_only=True)
class QuantConfig:
    """Quantised storage of the frozen base weights (NF4: Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: QuantKind = QuantKind.none
    """none, nf4 or int8."""
    double_quant: bool = True
    """Quantise the NF4 block scales as well: about 0.4 bits a parameter less."""


@dataclass(kw_only=True)
class LossConfig:
    """The objective."""

    reduction: Reduction = Reduction.token
    """Mean over the trained tokens of a step, or over its examples (each the mean of its tokens)."""


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop."""

    max_length: int = number(2048, ge=8)
    """Longest example, in tokens; see data.overflow."""
    examples_per_step: int = number(64, ge=1)
    """Examples of one optimizer step; layout, accumulation and number of devices never change it."""
    tokens_per_micro_batch: int = number(8192, ge=8)
    """Most tokens computed at once: the knob for memory. At least max_length."""
    lr: float = number(2e-4, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.cosine
    """Course of the learning rate after the warm-up."""
    warmup_ratio: float = number(0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly."""
    min_lr_ratio: float = number(0.1, ge=0, lt=1)
    """Floor of the schedules cosine_with_min_lr and polynomial (a straight line) as a share of lr."""
    optimizer: OptimizerName = OptimizerName.adamw
    """adamw, adamw_8bit or paged_adamw_8bit."""
    weight_decay: float = number(0.0, ge=0)
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    max_grad_norm: float = number(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 never clips."""
    epochs: int = number(1, ge=1)
    """Passes over the training rows."""
    max_steps: int | None = number(None, ge=1)
    """Stop after this many optimizer steps, whatever epochs says."""
    seed: int = number(42, ge=0)
    """Decides order, splits and initialisation."""
    eval_every: int | None = number(None, ge=1)
    """Steps between evaluations; null evaluates at the end of every epoch."""
    save_every: int | None = number(None, ge=1)
    """Steps between checkpoints; null saves at the end of every epoch."""
    keep_checkpoints: int = number(2, ge=1)
    """Newest checkpoints kept, beside the best one."""
    patience: int | None = number(None, ge=1)
    """Stop after this many evaluations without a better held-out loss; null never stops early."""
    keep_best: bool = True
    """Export the weights of the best held-out loss, not the last ones, when there are held-out rows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    logits_chunk: int = number(1024, ge=1)
    """Trained positions whose logits exist at once."""
    device: Device = Device.auto
    """auto, cpu or cuda."""
    dtype: Dtype = Dtype.auto
    """Compute type; auto: bfloat16 on CUDA cards that have it, float16 on others, float32 on CPU."""


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluation on held-out rows, during training and by ``sft eval``."""

    suite: str = "heldout"
    """Name of the report, eval/<suite>.json."""
    generate: bool = True
    """Answer the held-out prompts greedily and compare with the references (sft eval and compare_after_training)."""
    compare_after_training: bool = False
    """Generate on the held-out rows before and after training and print both."""
    samples: int = number(2, ge=0)
    """Sample answers written at each evaluation during training."""
    max_new_tokens: int = number(256, ge=1)
    """Longest generated answer, in tokens."""
    batch_size: int = number(16, ge=1)
    """Prompts answered at once."""
    max_rows: int | None = number(None, ge=1)
    """Generate for this many held-out rows, the first by row order; null for all."""


@dataclass(kw_only=True)
class LauncherConfig:
    """Where the job runs; read by scripts/slurm."""

    kind: LauncherKind = LauncherKind.local
    """local or slurm."""
    partition: str | None = None
    """SLURM partition; null takes the cluster's default."""
    account: str | None = None
    """SLURM account to charge."""
    time: str = "24:00:00"
    """Time limit, as sbatch writes it (minutes, HH:MM:SS or D-HH:MM:SS)."""
    gpus: int = number(1, ge=0)
    """GPUs of the job; 0 for a CPU job."""
    cpus: int = number(8, ge=1)
    """CPU cores of the job."""
    memory: str | None = None
    """Memory of the job, as sbatch writes it (32G); null takes the cluster's default."""
    setup: str = ""
    """Shell line run before sft, e.g. source ~/venv/bin/activate."""


@dataclass(kw_only=True)
class Config:
    """Everything that decides a run."""

    run_name: str = "run"
    """First part of the run directory's default name; recipes set it."""
    run_dir: str | None = None
    """Where the run is written; null: runs/<run_name>-<date>-<time> below $SFT_HOME or the working directory."""
    prepared_dir: str | None = None
    """Where prepare writes and train reads; null: named after the fingerprint below $SFT_HOME or ~/.cache/sft."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
