"""Making data: the teacher, the prompts, the checks, and how self-instruct grows its pool."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import bounded
from sft_cli.config.schema.suites import EndpointConfig, EvalEngine

TEACHER_PHRASES = (
    "as an ai",
    "as a language model",
    "i'm an ai",
    "i am an ai",
    "my knowledge cutoff",
    "my training data",
    "great question",
    "happy to help",
)
"""Openings of teachers, and what they say about themselves."""


class Generator(str, Enum):
    """How rows are made."""

    respond = "respond"
    reject = "reject"
    self_instruct = "self_instruct"


class KeepAnswers(str, Enum):
    """Which of the correct answers to a prompt become rows."""

    best = "best"
    all = "all"


@dataclass(kw_only=True)
class TeacherConfig:
    """The model that writes the rows."""

    engine: EvalEngine = EvalEngine.local
    """local: a model in this process; openai: a server with that API, which may cost money."""
    model: str | None = None
    """With engine=local: run directory, model directory, hub id, or builtin:quickstart/model."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """The server of engine=openai; endpoint.model is the name of the teacher."""
    temperature: float = bounded(0.7, ge=0)
    """0: each token is the most probable one."""
    top_p: float = bounded(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with at least this probability."""
    max_new_tokens: int = bounded(512, ge=1)
    """Longest reply, in tokens."""
    batch_size: int = bounded(16, ge=1)
    """Replies generated at once with engine=local."""
    seed: int = 0
    """Seed of sampling, and of what is chosen at random."""


@dataclass(kw_only=True)
class PromptsConfig:
    """The prompts that respond and reject answer. Texts with {{ }} are Jinja over a row."""

    path: str | None = None
    """File of rows, of any kind that data.mix takes, or a hub id."""
    split: str = "train"
    """Split of a hub data set."""
    prompt: str = "{{ prompt }}"
    """The user message."""
    messages: str | None = None
    """A whole conversation up to the answer, such as {{ messages }}, in place of prompt and system."""
    system: str | None = None
    """The system message, if synth.systems is empty."""
    id: str | None = None
    """Id of a prompt; null: a digest of its row."""
    target: str | None = None
    """The expected answer, or a list of accepted ones, which the checks of reject read."""
    where: str | None = None
    """Only rows for which this text is not empty, False, None or 0, such as "{{ output | int(-1) >= 0 }}"."""
    limit: int | None = bounded(None, ge=1)
    """Use this many prompts, the first of the file; null for all."""


@dataclass(kw_only=True)
class CheckConfig:
    """What tells a correct answer of reject: the metrics of sft eval."""

    scorers: list[str] = field(default_factory=lambda: ["exact_match"])
    """Names of metrics, such as [numeric], [code] or [json_schema]; an answer is correct if all agree."""
    options: dict[str, bool | int | float | str | list[str]] = field(default_factory=dict)
    """Options of the metric, if there is one."""
    threshold: float = bounded(1.0, gt=0)
    """Lowest score of a correct answer, of each metric."""


@dataclass(kw_only=True)
class SelfInstructConfig:
    """How self_instruct grows a pool of instructions (Wang et al. 2022, arXiv:2212.10560)."""

    seeds: str | None = None
    """JSONL file of seed tasks with instruction, input, output and is_classification; null: those of the package."""
    rows: int = bounded(200, ge=1)
    """Number of rows to make."""
    human_examples: int = bounded(6, ge=1)
    """Seed tasks shown in a request for new instructions."""
    machine_examples: int = bounded(2, ge=0)
    """Generated instructions shown in it; seed tasks take their place while there are fewer."""
    requests_per_round: int = bounded(8, ge=1)
    """Requests for new instructions of a round; all of a round see the pool of its start."""
    max_rounds: int = bounded(200, ge=1)
    """Stop after this many rounds."""
    similarity: float = bounded(0.7, gt=0, le=1)
    """An instruction whose ROUGE-L with any instruction of the pool reaches this is dropped."""


@dataclass(kw_only=True)
class SynthConfig:
    """Making rows with a teacher (sft synth)."""

    generator: Generator = Generator.respond
    """respond: an answer to each prompt; reject: several, of which correct ones are kept; self_instruct: new
    instructions with answers, from seed tasks."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    systems: list[str] = field(default_factory=list)
    """System messages of respond, one per prompt, chosen by the seed: prompts of configs/synth/prompts, such as
    [explain,steps], or none."""
    samples: int = bounded(4, ge=1)
    """With reject, answers to each prompt."""
    keep: KeepAnswers = KeepAnswers.best
    """With reject: best, the shortest correct answer; all, every distinct correct answer."""
    check: CheckConfig = field(default_factory=CheckConfig)
    self_instruct: SelfInstructConfig = field(default_factory=SelfInstructConfig)
    templates: dict[str, str] = field(default_factory=dict)
    """Prompt of configs/synth/prompts -> a Jinja file of your own in its place."""
    drop_phrases: list[str] = field(default_factory=lambda: list(TEACHER_PHRASES))
    """Answers with one of these texts, which betray a teacher, are dropped; in any letter case."""
    max_tokens: int | None = bounded(None, ge=1)
    """Send no request after this many tokens of replies, those of earlier commands included; null for no limit."""
    max_cost: float | None = bounded(None, gt=0)
    """Send no request at this cost, by the prices of synth.teacher.endpoint, that of earlier commands included."""
