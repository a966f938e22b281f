"""The schema of ``data``: sources, the mix, splits and budgets. Plain dataclasses; see config/schema/config.py."""

import re
from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import Auto, bounded

RANKED = re.compile(r"ranked\(([1-9][0-9]{0,3})\)")
"""How ``tree.paths`` names the k best replies."""


class OnBadRow(str, Enum):
    """What a row that cannot be read, or whose mask cannot be proven, does to the run."""

    error = "error"
    drop = "drop"


class Overflow(str, Enum):
    """What happens to a row longer than ``trainer.max_length``; truncate alone cuts answers.

    error: the run stops; drop: the row is left out; drop_oldest_turns: whole turns go from its front, and a row whose
    last turn is too long is left out; truncate: the first trainer.max_length tokens are kept.
    """

    error = "error"
    drop = "drop"
    drop_oldest_turns = "drop_oldest_turns"
    truncate = "truncate"


class TrainOn(str, Enum):
    """Which tokens carry loss: assistant turns, only the last one, user and assistant texts without tags, or all."""

    assistant = "assistant"
    last = "last"
    contents = "contents"
    all = "all"


class Delimiters(str, Enum):
    """What happens to a text that holds a header of a template without special tokens, such as ``### Response:``."""

    warn = "warn"
    error = "error"


class Thinking(str, Enum):
    """What happens to the reasoning of assistant turns: kept as it is, stripped, or kept in the last turn alone."""

    keep = "keep"
    strip = "strip"  # pyright: ignore[reportAssignmentType]  # str has a method of that name
    last = "last"


class Strategy(str, Enum):
    """What the weights of the sources mean.

    proportional: rows by size times weight; equal: rows by weight alone; temperature: rows by (size times
    weight)^(1/T) (Raffel et al. 2020, arXiv:1910.10683); trained_tokens: trained tokens by weight alone.
    """

    proportional = "proportional"
    equal = "equal"
    temperature = "temperature"
    trained_tokens = "trained_tokens"


class StoppingStrategy(str, Enum):
    """Where an epoch of a mix by shares ends.

    first_exhausted: before any source repeats; all_exhausted: when every source was seen whole (others repeat);
    total_rows: after data.total_rows rows.
    """

    first_exhausted = "first_exhausted"
    all_exhausted = "all_exhausted"
    total_rows = "total_rows"


class Order(str, Enum):
    """The order of the examples inside a stage."""

    random = "random"
    by_length = "by_length"
    by_difficulty = "by_difficulty"


class Placeholders(str, Enum):
    """What happens to a {{name}} in a row that has no value."""

    error = "error"
    keep = "keep"


class Role(str, Enum):
    """What a source is for: instruction tuning, or replay of plain text (whole documents, LM loss)."""

    instruct = "instruct"
    replay = "replay"


@dataclass(kw_only=True)
class TreeConfig:
    """How a tree of messages (OpenAssistant) becomes conversations."""

    paths: str = "best"
    """best (the top-ranked reply at every turn), all, or ranked(k): the k best replies at every turn."""
    languages: list[str] = field(default_factory=list)
    """Languages kept, such as [en, de]; empty keeps all."""
    reviewed: bool = True
    """Leave out messages that failed their review, were deleted, or are spam."""


@dataclass(kw_only=True)
class BudgetConfig:
    """Largest shares of rows (0.05 or 5%); null sets no limit."""

    dropped: float | None = bounded(None, ge=0, le=1)
    """Rows that could not be used: unreadable, too long, mask not proven."""
    filtered: float | None = bounded(None, ge=0, le=1)
    """Rows that the filters of clean left out on purpose."""
    truncated: float | None = bounded(None, ge=0, le=1)
    """Rows that lost their oldest turns, or their end, to fit into trainer.max_length."""
    unproven: float | None = bounded(None, ge=0, le=1)
    """Rows whose mask could not be proven (they count as dropped, too)."""


@dataclass(kw_only=True)
class SourceConfig:
    """One source of rows in the mix."""

    path: str | None = None
    """File, glob, directory, hub id, URL (https, s3, gs, hf), or ``builtin:…``."""
    format: str | dict[str, str] = "auto"
    """Shape of the rows: auto, a name (sft formats), or Jinja texts such as {messages: …}."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names the format expects -> names in the file; names left out keep their default."""
    ignore: list[str] = field(default_factory=list)
    """Columns left out on purpose, such as [images]; the rows are read as if they had none."""
    delimiter: str | None = None
    """What separates the fields of a .csv or .tsv file: one character, or tab; null takes what the ending says."""
    encoding: str | None = None
    """Encoding of the text files, such as cp1252 or utf-16; null is UTF-8."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values for {{name}} placeholders in the rows."""
    placeholders: Placeholders = Placeholders.error
    """A {{name}} without a value: error, or keep (rows about Jinja, Vue or Mustache)."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag (task, language or a name of yours) -> column that holds it; the report counts by them."""
    scores: dict[str, str] = field(default_factory=dict)
    """Score (quality, difficulty or a name of yours) -> column that holds the number."""
    roles: dict[str, str] = field(default_factory=dict)
    """Role in the file -> system, user, assistant, tool or tool_call; common names are known without it."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    """For rows that are trees of messages."""
    name: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    split: str = "train"
    """Split of a hub data set or of a directory of splits that is trained on."""
    validation_split: str | None = None
    """Split of the same data set that is held out; or see validation_path."""
    validation_path: str | None = None
    """File, glob or directory of held-out rows of the same format."""
    stream: bool = False
    """Read rows as they come, without storing the source: needs max_rows."""
    shuffle_buffer: int = bounded(10000, ge=1)
    """Rows held in memory to choose from while streaming."""
    max_rows: int | None = bounded(None, ge=1)
    """Use this many rows, chosen by the seed."""
    weight: float = bounded(1.0, gt=0)
    """The source's part in the mix; what it counts is data.strategy's choice."""
    cap: int | None = bounded(None, ge=1)
    """Count this source as at most so many rows when shares follow sizes (FLAN's examples-proportional mixing)."""
    epochs: float | None = bounded(None, gt=0)
    """Exactly so many passes over this source per epoch, whatever weight and strategy say."""
    priority: int = 0
    """Which source keeps a row that several have: the highest."""
    role: Role = Role.instruct
    """instruct, or replay: whole documents, trained as plain text."""
    loss_weight: float = bounded(1.0, gt=0)
    """Factor on the loss of this source's tokens (the lambda of a replay source)."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Limits for this source alone, beside data.budget."""
    licence: str | None = None
    """Licence of the data, for the model card."""


@dataclass(kw_only=True)
class StageConfig:
    """One stage of a curriculum."""

    name: str = ""
    """For messages and the report."""
    share: float = bounded(1.0, gt=0)
    """Part of each epoch's rows, relative to the other stages'; rows of a source with epochs come on top."""
    mix: dict[str, float] = field(default_factory=dict)
    """Source -> weight inside this stage; empty takes every source with its own weight."""
    order: Order = Order.random
    """random, by_length (shortest first) or by_difficulty (lowest score first)."""
    difficulty: str = "difficulty"
    """The score by_difficulty sorts by; see the scores of a source."""


@dataclass(kw_only=True)
class DataConfig:
    """Which rows are trained on, and what happens to those that cannot be."""

    mix: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    strategy: Strategy = Strategy.proportional
    """What weights mean: proportional (passes over each source), equal, temperature or trained_tokens."""
    temperature: float = bounded(2.0, ge=1)
    """T of strategy=temperature: 1 is by size, large values approach equal."""
    stopping_strategy: StoppingStrategy = StoppingStrategy.first_exhausted
    """Where an epoch of a mix by shares ends: first_exhausted, all_exhausted or total_rows."""
    total_rows: int | None = bounded(None, ge=1)
    """Rows of an epoch with stopping_strategy=total_rows."""
    stages: list[StageConfig] = field(default_factory=list)
    """A curriculum: mixes in order, each with its share of an epoch; empty is one stage in random order."""
    val_fraction: Auto | float = bounded(Auto.auto, ge=0, lt=1)
    """Share held out by the seed of each source without held-out rows of its own; 0: none. auto: 2% of all rows, 8 to
    500 of them; none below 40 rows, or where any source has its own."""
    val_rows: int | None = bounded(None, ge=1)
    """As val_fraction, as a number of rows over all sources."""
    on_bad_row: OnBadRow = OnBadRow.error
    """A row that cannot be read or proven: error stops, drop leaves it out and counts it."""
    overflow: Overflow = Overflow.error
    """A row longer than trainer.max_length: error, drop, drop_oldest_turns (whole turns, system kept), or truncate (its
    first tokens are kept: an answer may lose its end)."""
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(dropped=0.01))
    """How much may be lost before the run is refused."""
    train_on: TrainOn = TrainOn.assistant
    """Which tokens carry loss: assistant, last (assistant turn), contents (user and assistant texts) or all."""
    train_on_tool_calls: bool = True
    """Whether assistant turns that call tools carry loss."""
    train_on_tool_results: bool = False
    """Whether what tools answered carries loss, too; a token it shares with the template's own text does not."""
    train_on_reasoning: bool = True
    """Whether the reasoning of an assistant turn carries loss."""
    no_loss_patterns: list[str] = field(default_factory=list)
    """Regular expressions; the parts of answers that they match carry no loss, but the model still sees them."""
    content_tokens: list[str] = field(default_factory=list)
    """Special tokens of the tokenizer that are single, trained ids inside answers; elsewhere they are plain text."""
    thinking: Thinking = Thinking.keep
    """Reasoning of assistant turns: keep, strip, or last (kept in the last turn alone)."""
    system: str | None = None
    """System message for conversations that have none."""
    override_system: bool = False
    """Whether data.system replaces the system messages that are there."""
    sanitize: bool = True
    """Encode special-token strings inside messages as plain text; false refuses such rows."""
    delimiters: Delimiters = Delimiters.warn
    """A message that holds a header of a plain-text template (### Response:): warn counts such rows, error refuses."""
    workers: int | None = bounded(None, ge=1)
    """Processes that prepare rows; null takes one per core. The result does not depend on it."""
