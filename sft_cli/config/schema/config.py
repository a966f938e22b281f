"""The schema of a run. Plain dataclasses: this file imports no torch, no Hydra, no OmegaConf.

Composing checks each field's type and the limits of ``bounded``, and reports all mistakes at once. The string under a
field is its documentation, which ``sft show --keys`` prints.
"""

from dataclasses import dataclass, field

from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig
from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.config.schema.fields import bounded
from sft_cli.config.schema.launcher import DistributedConfig, LauncherConfig
from sft_cli.config.schema.speed import SpeedConfig
from sft_cli.config.schema.suites import EndpointConfig, EvalEngine, LmEvalConfig, SuiteConfig
from sft_cli.config.schema.synth import SynthConfig
from sft_cli.config.schema.tracking import NotifyConfig, TrackingConfig
from sft_cli.config.schema.trainer import Dtype, LossConfig, TrainerConfig


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
    add_tokens: list[str] = field(default_factory=list)
    """New tokens, such as [<|plan|>, <tool>]: single ids in answers; embeddings start at the mean and are trained."""
    trust_remote_code: bool = False
    """Run Python code that ships with the model. Only for authors you trust."""


@dataclass(kw_only=True)
class TemplateConfig:
    """The chat template, which renders a conversation as text."""

    name: str = "auto"
    """auto takes the tokenizer's own chat template; other names are templates of this package. For a file, set path."""
    path: str | None = None
    """A Jinja chat template file; it takes precedence over name."""
    input_separator: str = "\n\n"
    """Text between instruction and input of an Alpaca row."""
    variables: dict[str, str | bool] = field(default_factory=dict)
    """Values a template reads in addition to messages and tools: {enable_thinking: false}; servers must send them."""


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluation on held-out rows, during training and by ``sft eval``."""

    generate: bool = True
    """Answer the held-out prompts greedily and compare with the references (sft eval and compare_after_training)."""
    compare_after_training: bool = False
    """Generate on the held-out rows before and after training and print both."""
    samples: int = bounded(4, ge=0)
    """Sample answers written at each evaluation during training; from 4, the last ones show whether the run failed."""
    max_new_tokens: int = bounded(256, ge=1)
    """Longest generated answer, in tokens."""
    batch_size: int = bounded(16, ge=1)
    """Prompts generated for at once."""
    max_rows: int | None = bounded(None, ge=1)
    """Generate for this many held-out rows, the first by row order; null for all."""
    data_dir: str | None = None
    """Directory with the files of items of suites (sft eval)."""
    limit: int | None = bounded(None, ge=1)
    """Use at most this many items of each suite, the first of its file; null for all."""
    max_tokens: int | None = bounded(None, ge=1)
    """Stop after generating this many tokens; the same command continues. null for no limit."""
    max_minutes: float | None = bounded(None, gt=0)
    """Stop after this time; the same command continues. null for no limit."""
    max_cost: float | None = bounded(None, gt=0)
    """Stop at this cost, by the prices of eval.endpoint; the same command continues. null for no limit."""
    engine: EvalEngine = EvalEngine.local
    """What answers the items of suites: local, the model in this process; openai, a server that holds it already."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """The server of engine=openai."""
    limits: dict[str, float] = field(default_factory=dict)
    """Value of the drift card -> its limit, such as {empty: 0.02, openers: 0.1}; beyond one, sft eval exits with 3."""
    retention: list[str] = field(default_factory=list)
    """Suites, or SUITE.METRIC, whose mean loss of score against the base is the alignment tax (sft eval)."""
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    """Tasks of lm-evaluation-harness, in addition to the suites."""
    suites: dict[str, SuiteConfig] = field(default_factory=dict)
    """Suites by name, of sft eval; none means heldout. eval=[heldout,gsm8k] chooses them."""


@dataclass(kw_only=True)
class Config:
    """All settings of a run."""

    run_name: str = "run"
    """First part of the run directory's default name; recipes set it."""
    run_dir: str | None = None
    """Directory of the run; null: runs/<run_name>-<date>-<time> below $SFT_HOME or the working directory."""
    prepared_dir: str | None = None
    """Directory that prepare writes and train reads; null: named after the fingerprint below $SFT_HOME or
    ~/.cache/sft."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
