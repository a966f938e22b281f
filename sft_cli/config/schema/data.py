"""Schema of ``data``: sources, the mix, splits and budgets. Plain dataclasses; see config/schema/config.py."""

import re
from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import Auto, bounded

RANKED = re.compile(r"ranked\(([1-9][0-9]{0,3})\)")
"""Form of ``tree.paths`` that selects the k best replies."""


class OnBadRow(str, Enum):
    """The treatment of a row that cannot be read, or whose mask cannot be proven."""

    error = "error"
    drop = "drop"


class Overflow(str, Enum):
    """The treatment of a row longer than ``trainer.max_length``; only ``truncate`` cuts answers.

    error: the run stops; drop: the row is left out; drop_oldest_turns: whole turns are removed from its start, and a
    row whose last turn is too long is left out; truncate: the first trainer.max_length tokens are kept.
    """

    error = "error"
    drop = "drop"
    drop_oldest_turns = "drop_oldest_turns"
    truncate = "truncate"


class TrainOn(str, Enum):
    """The tokens that carry loss: assistant turns, only the last one, user and assistant texts without tags, or all."""

    assistant = "assistant"
    last = "last"
    contents = "contents"
    all = "all"


class Delimiters(str, Enum):
    """The treatment of a text that holds a header of a template without special tokens (``### Response:``)."""

    warn = "warn"
    error = "error"


class Thinking(str, Enum):
    """The treatment of reasoning in assistant turns: kept, stripped, or kept in the last turn only."""

    keep = "keep"
    strip = "strip"  # pyright: ignore[reportAssignmentType]  # str has a method of that name
    last = "last"


class Strategy(str, Enum):
    """The meaning of the sources' weights.

    proportional: rows by size times weight; equal: rows by weight alone; temperature: rows by (size times
    weight)^(1/T) (Raffel et al. 2020, arXiv:1910.10683); trained_tokens: trained tokens by weight alone.
    """

    proportional = "proportional"
    equal = "equal"
    temperature = "temperature"
    trained_tokens = "trained_tokens"


class StoppingStrategy(str, Enum):
    """The end of an epoch of a mix by shares.

    first_exhausted: before any source repeats; all_exhausted: when every source was used once in full (others repeat);
    total_rows: after data.total_rows rows.
    """

    first_exhausted = "first_exhausted"
    all_exhausted = "all_exhausted"
    total_rows = "total_rows"


class Order(str, Enum):
    """The order of the examples in a stage."""

    random = "random"
    by_length = "by_length"
    by_difficulty = "by_difficulty"


class Placeholders(str, Enum):
    """The treatment of a {{name}} in a row that has no value."""

    error = "error"
    keep = "keep"


class Role(str, Enum):
    """The purpose of a source: instruction tuning, or replay of plain text (whole documents, LM loss)."""

    instruct = "instruct"
    replay = "replay"


@dataclass(kw_only=True)
class TreeConfig:
    """Conversion of a tree of messages (OpenAssistant) into conversations."""

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
    """Rows that the filters of clean removed."""
    truncated: float | None = bounded(None, ge=0, le=1)
    """Rows that lost their oldest turns, or their end, to fit into trainer.max_length."""
    unproven: float | None = bounded(None, ge=0, le=1)
    """Rows whose mask could not be proven (they also count as dropped)."""


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
    """Columns to ignore, such as [images]; the rows are read as if they had none."""
    delimiter: str | None = None
    """Field separator of a .csv or .tsv file: one character, or tab; null takes that of the file ending."""
    encoding: str | None = None
    """Encoding of the text files, such as cp1252 or utf-16; null is UTF-8."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values for {{name}} placeholders in the rows."""
    placeholders: Placeholders = Placeholders.error
    """A {{name}} without a value: error, or keep (rows about Jinja, Vue or Mustache)."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag (task, language or any other name) -> column that holds it; the report counts by tags."""
    scores: dict[str, str] = field(default_factory=dict)
    """Score (quality, difficulty or any other name) -> column that holds the number."""
    roles: dict[str, str] = field(default_factory=dict)
    """Role in the file -> system, user, assistant, tool or tool_call; common names are known without it."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    """For rows that are trees of messages."""
    name: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    split: str = "train"
    """Split of a hub data set, or of a directory of splits, to train on."""
    validation_split: str | None = None
    """Held-out split of the same data set; or see validation_path."""
    validation_path: str | None = None
    """File, glob or directory of held-out rows of the same format."""
    stream: bool = False
    """Read rows as they arrive, without storing the source: needs max_rows."""
    shuffle_buffer: int = bounded(10000, ge=1)
    """Rows held in memory to choose from while streaming."""
    max_rows: int | None = bounded(None, ge=1)
    """Use this many rows, chosen by the seed."""
    weight: float = bounded(1.0, gt=0)
    """The source's part in the mix; data.strategy sets its meaning."""
    cap: int | None = bounded(None, ge=1)
    """Count this source as at most this many rows when shares follow sizes (FLAN's examples-proportional mixing)."""
    epochs: float | None = bounded(None, gt=0)
    """Exact number of passes over this source per epoch, regardless of weight and strategy."""
    priority: int = 0
    """Of the sources that contain the same row, the one with the highest priority keeps it."""
    role: Role = Role.instruct
    """instruct, or replay: whole documents, trained as plain text."""
    loss_weight: float = bounded(1.0, gt=0)
    """Factor on the loss of this source's tokens (the lambda of a replay source)."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Limits for this source, in addition to data.budget."""
    licence: str | None = None
    """Licence of the data, for the model card."""


@dataclass(kw_only=True)
class StageConfig:
    """One stage of a curriculum."""

    name: str = ""
    """Name in messages and the report."""
    share: float = bounded(1.0, gt=0)
    """Part of each epoch's rows, relative to the other stages; rows of a source with epochs are added."""
    mix: dict[str, float] = field(default_factory=dict)
    """Source -> weight inside this stage; empty takes every source with its own weight."""
    order: Order = Order.random
    """random, by_length (shortest first) or by_difficulty (lowest score first)."""
    difficulty: str = "difficulty"
    """Score that by_difficulty sorts by; see the scores of a source."""


@dataclass(kw_only=True)
class DataConfig:
    """The rows to train on, and the treatment of those that cannot be used."""

    mix: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    strategy: Strategy = Strategy.proportional
    """Meaning of the weights: proportional (passes over each source), equal, temperature or trained_tokens."""
    temperature: float = bounded(2.0, ge=1)
    """T of strategy=temperature: 1 is by size, large values approach equal."""
    stopping_strategy: StoppingStrategy = StoppingStrategy.first_exhausted
    """End of an epoch of a mix by shares: first_exhausted, all_exhausted or total_rows."""
    total_rows: int | None = bounded(None, ge=1)
    """Rows of an epoch with stopping_strategy=total_rows."""
    stages: list[StageConfig] = field(default_factory=list)
    """A curriculum: mixes in order, each with its share of an epoch; empty is one stage in random order."""
    val_fraction: Auto | float = bounded(Auto.auto, ge=0, lt=1)
    """Share to hold out, by the seed, of each source that has no held-out rows of its own; 0: none. auto: 2% of all
    rows, 8 to 500 of them; none below 40 rows, if any source has its own, or with holdout."""
    val_rows: int | None = bounded(None, ge=1)
    """Like val_fraction, as a number of rows over all sources."""
    holdout: dict[str, list[str]] = field(default_factory=dict)
    """Tag -> its values whose rows are all held out, such as {task: [translate, rhyme]}; see the tags of a source."""
    fraction: float = bounded(1.0, gt=0, le=1)
    """Share of the training rows of each source to train on, chosen by the seed; a smaller share is a part of a larger
    one, and held-out rows stay the same."""
    leave_out: list[str] = field(default_factory=list)
    """Sources to train without; their held-out rows stay."""
    on_bad_row: OnBadRow = OnBadRow.error
    """A row that cannot be read or proven: error stops, drop leaves it out and counts it."""
    overflow: Overflow = Overflow.error
    """A row longer than trainer.max_length: error, drop, drop_oldest_turns (whole turns, system kept), or truncate (its
    first tokens are kept: an answer may lose its end)."""
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(dropped=0.01))
    """Largest shares of lost rows before the run is refused."""
    train_on: TrainOn = TrainOn.assistant
    """Tokens that carry loss: assistant, last (assistant turn), contents (user and assistant texts) or all."""
    train_on_tool_calls: bool = True
    """Whether assistant turns that call tools carry loss."""
    train_on_tool_results: bool = False
    """Whether the results of tools carry loss; a token that also holds text of the template does not."""
    train_on_reasoning: bool = True
    """Whether the reasoning of an assistant turn carries loss."""
    no_loss_patterns: list[str] = field(default_factory=list)
    """Regular expressions; matching parts of answers carry no loss, but stay in the input."""
    content_tokens: list[str] = field(default_factory=list)
    """Special tokens of the tokenizer that are single, trained ids inside answers; elsewhere they are plain text."""
    thinking: Thinking = Thinking.keep
    """Reasoning of assistant turns: keep, strip, or last (kept in the last turn only)."""
    system: str | None = None
    """System message for conversations that have none."""
    override_system: bool = False
    """Whether data.system replaces existing system messages."""
    sanitize: bool = True
    """Encode special-token strings inside messages as plain text; false refuses such rows."""
    delimiters: Delimiters = Delimiters.warn
    """A message that holds a header of a plain-text template (### Response:): warn counts such rows, error refuses."""
    workers: int | None = bounded(None, ge=1)
    """Processes that prepare rows; null takes one per core. The result does not depend on it."""
