"""The suites of an evaluation: their items, how the items are asked, and how the answers are scored."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import bounded


class SuiteKind(str, Enum):
    """How a suite measures a model."""

    heldout = "heldout"
    generate = "generate"
    choices = "choices"
    perplexity = "perplexity"
    memorisation = "memorisation"


class SuiteFormat(str, Enum):
    """How the items of a suite are written."""

    chat = "chat"
    text = "text"


class EvalEngine(str, Enum):
    """What answers the items of suites: the model in this process, or a server with the API of OpenAI."""

    local = "local"
    openai = "openai"


class Compat(str, Enum):
    """Another program whose figures are given in addition."""

    none = "none"
    lm_eval = "lm_eval"


@dataclass(kw_only=True)
class ShotsConfig:
    """Solved examples before each item."""

    count: int = bounded(0, ge=0)
    """Number of examples."""
    path: str | None = None
    """File of examples, or the name of one in eval.data_dir; null: the other items of the suite."""
    split: str | None = None
    """Split of the suite's hub data set with the examples, if path is null."""
    seed: int = 0
    """Seed by which the examples are chosen; every item has the same ones."""
    answer: str = "{{ answer }}"
    """Jinja text of the answer of an example; in a suite of choices, the correct choice is the answer."""


@dataclass(kw_only=True)
class VariantsConfig:
    """Variants of each question, in addition to the plain one; an item and its variants are one cluster."""

    kinds: list[str] = field(default_factory=list)
    """Changes of the question: typos, upper, lower, distractor (a long unrelated text before it)."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Variant -> Jinja text in place of prompt, such as {phrasing: "{{ paraphrase }}"}."""
    files: dict[str, str] = field(default_factory=dict)
    """Variant -> file, or name of one in eval.data_dir, whose columns replace those of the item with the same id:
    paraphrases, or another language."""
    typos: float = bounded(0.2, gt=0, le=1)
    """Share of the words of four or more letters that get a typo; at least one word does."""
    distractor_words: int = bounded(200, ge=1)
    """Smallest number of words of the distractor."""
    seed: int = 0
    """Seed of typos and distractors."""


@dataclass(kw_only=True)
class SuiteConfig:
    """A suite: its items, how they are asked, and how the answers are scored. Texts with {{ }} are Jinja over a row."""

    kind: SuiteKind = SuiteKind.generate
    """heldout: loss and exact match on the run's held-out rows; generate: answers; choices: the likelihood of each;
    perplexity: that of a plain text, in bits per byte as well; memorisation: trained answers, continued from their
    first half."""
    version: int = bounded(1, ge=1)
    """Increased whenever the items or the scores of the same answers change."""
    source: str = ""
    """Address of the published data."""
    licence: str = ""
    """Licence of the data."""
    items: int | None = bounded(None, ge=1)
    """Number of items of the published data; a file with another number is reported."""
    path: str | None = None
    """File of items, of any kind that data.mix takes; it takes precedence over file and hub."""
    file: str | None = None
    """Name of the file of items in eval.data_dir, or of one in the package."""
    hub: str | None = None
    """Id of the data set on the hub, where neither path nor eval.data_dir is set."""
    subset: str | None = None
    """Configuration of the hub data set."""
    split: str = "test"
    """Split of the hub data set."""
    revision: str | None = None
    """Revision of the hub data set."""
    answers: str | None = None
    """Name of a second file in the directory of the first, whose columns are added to the items with the same id."""
    format: SuiteFormat = SuiteFormat.chat
    """chat: the model's template, as served; text: the prompt alone, for base models."""
    system: str | None = None
    """System message."""
    prompt: str = "{{ prompt }}"
    """User message; with format=text, the whole text."""
    second_prompt: str | None = None
    """Second user message, after the model's own answer to the first; other.COLUMN is a column of another row."""
    messages: str | None = None
    """A whole conversation up to the answer, such as {{ messages }}, in place of system and prompt."""
    tools: str | None = None
    """Schemas of tools, such as {{ function }}."""
    id: str | None = None
    """Id of an item; null: a digest of its row."""
    cluster: str | None = None
    """Items with the same cluster are not independent: turns of a conversation, paraphrases of an item."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag -> its value, such as {subject: "{{ subject }}"}; scores are also given by tag."""
    target: str | None = None
    """The expected answer, or a list of accepted ones."""
    second_target: str | None = None
    """The expected answer to second_prompt; null: that of the first."""
    choices: str | None = None
    """List of the choices."""
    gold: str | None = None
    """The correct choice: its index from 0, its letter, or its text."""
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    """Solved examples before each item."""
    variants: VariantsConfig = field(default_factory=VariantsConfig)
    """Variants of each question, to measure how much a score drops."""
    scorers: list[str] = field(default_factory=lambda: ["exact_match"])
    """Names of the metrics; none only shows the answers."""
    options: dict[str, bool | int | float | str | list[str]] = field(default_factory=dict)
    """Options of the metric, if there is one."""
    samples: int = bounded(1, ge=1)
    """Answers to each item; more than one needs a temperature."""
    reduce: list[str] = field(default_factory=lambda: ["mean"])
    """Scores of an item from those of its answers: mean, majority (the most frequent answer), or pass@k such as
    pass@5."""
    temperature: float = bounded(0.0, ge=0)
    """0: each token is the most probable one."""
    top_p: float = bounded(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with at least this probability."""
    seed: int = 0
    """Seed of sampling."""
    max_new_tokens: int | None = bounded(None, ge=1)
    """Longest answer, in tokens; null: eval.max_new_tokens."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer, in addition to the model's stop tokens; they are not part of the answer."""
    window: int | None = bounded(None, ge=2)
    """With kind=perplexity, tokens of a window, with its context; null: 1024, or the model's context if less."""
    stride: int | None = bounded(None, ge=1)
    """With kind=perplexity, most tokens that are predicted in one window; null: half of it."""
    limit: int | None = bounded(None, ge=1)
    """Use this many items, the first of the file; null for all."""
    compat: Compat = Compat.none
    """lm_eval: also the log-likelihoods as lm-evaluation-harness computes them, which splits context and choice
    otherwise."""


@dataclass(kw_only=True)
class EndpointConfig:
    """A server with the API of OpenAI, of eval.engine=openai or of a teacher; its key comes from the environment."""

    url: str | None = None
    """Address, such as http://localhost:8000/v1; null: that of OpenAI."""
    model: str | None = None
    """Name of the model at the server; null, for sft eval only: its argument, if it is no directory."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; a server with a url may need none."""
    concurrency: int = bounded(4, ge=1)
    """Requests at the same time."""
    requests_per_minute: int = bounded(0, ge=0)
    """Most requests started within a minute; 0 for no limit."""
    timeout: float = bounded(60.0, gt=0)
    """Seconds until a request counts as failed."""
    retries: int = bounded(5, ge=0)
    """How often a request is sent again after status 408, 409, 429, 5xx or a lost connection."""
    price_input: float = bounded(0.0, ge=0)
    """Price of a million tokens of prompts, for max_cost."""
    price_output: float = bounded(0.0, ge=0)
    """Price of a million tokens of answers."""


@dataclass(kw_only=True)
class LmEvalConfig:
    """Tasks of lm-evaluation-harness (sft eval); their figures are named lm_eval_METRIC."""

    tasks: list[str] = field(default_factory=list)
    """Names of tasks, such as [arc_easy]; needs pip install 'sft-cli[lm-eval]'."""
    task_dir: str | None = None
    """Directory with the YAML files of the tasks, the only ones then known; null: those of the package, which download
    their data."""
    shots: int | None = bounded(None, ge=0)
    """Number of solved examples; null: that of the task."""
    chat: bool = True
    """Ask by the model's chat template."""
