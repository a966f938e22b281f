"""The schema of ``clean``: one block per filter, and the order in which they run. Plain dataclasses."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import bounded


class Scope(str, Enum):
    """What makes two rows the same: their prompts, or prompts and answers."""

    prompt = "prompt"
    conversation = "conversation"


class Action(str, Enum):
    """What a filter does with a row it finds."""

    drop = "drop"
    report = "report"


class PiiAction(str, Enum):
    """What happens to personal data: typed placeholders in its place, the row dropped, or only a report."""

    redact = "redact"
    drop = "drop"
    report = "report"


class Method(str, Enum):
    """How near duplicates are found: MinHash over word shingles, or ROUGE-L as in Self-Instruct."""

    minhash = "minhash"
    rouge_l = "rouge_l"


@dataclass(kw_only=True)
class LeakageConfig:
    """Training rows whose prompt is also held out."""

    scope: Scope = Scope.prompt
    """prompt, or conversation: prompt and answer."""


@dataclass(kw_only=True)
class ExactDuplicatesConfig:
    """Rows that are the same after normalisation, within and across sources."""

    scope: Scope = Scope.conversation
    """prompt, or conversation: prompt and answer."""
    action: Action = Action.drop
    """drop or report."""


@dataclass(kw_only=True)
class NearDuplicatesConfig:
    """Rows that are almost the same (MinHash: Broder 1997; ROUGE-L: Self-Instruct, arXiv:2212.10560)."""

    method: Method = Method.minhash
    """minhash (true Jaccard of word shingles) or rouge_l (F-measure, as Self-Instruct's 0.7 rule)."""
    scope: Scope = Scope.prompt
    """prompt, or conversation: prompt and answer."""
    threshold: float = bounded(0.8, gt=0, le=1)
    """Similarity from which rows count as the same."""
    shingle: int = bounded(3, ge=1)
    """Words of a shingle."""
    permutations: int = bounded(128, ge=16, le=1024)
    """Hash functions of a MinHash signature."""
    action: Action = Action.drop
    """drop or report."""


@dataclass(kw_only=True)
class ContaminationConfig:
    """Rows that hold prompts of evaluation sets (n-gram overlap, as in Brown et al. 2020, arXiv:2005.14165)."""

    against: dict[str, str] = field(default_factory=dict)
    """Evaluation sets: name -> file of rows."""
    columns: dict[str, str] = field(default_factory=dict)
    """Evaluation set -> column that holds its prompt; left out: the first of question, prompt, instruction, text."""
    ngram: int = bounded(10, ge=3, le=50)
    """Words of an n-gram; shorter evaluation prompts are compared whole."""
    threshold: float = bounded(0.5, gt=0, le=1)
    """Share of an evaluation prompt's n-grams in one row from which the row counts as contaminated."""
    action: Action = Action.drop
    """drop or report."""


@dataclass(kw_only=True)
class PiiConfig:
    """Personal data and secrets."""

    kinds: list[str] = field(default_factory=lambda: ["email", "phone", "card", "iban", "ip", "secret"])
    """What is looked for: email, phone, card, iban, ip, secret, and national ids such as id_us, id_de, id_fr."""
    action: PiiAction = PiiAction.redact
    """redact (typed placeholders such as <EMAIL>), drop or report."""
    phone_regions: list[str] = field(default_factory=lambda: ["US"])
    """Countries whose national phone numbers are recognised without a country code."""
    roles: list[str] = field(default_factory=lambda: ["system", "user", "assistant", "tool"])
    """Roles whose messages are searched."""


@dataclass(kw_only=True)
class LanguageConfig:
    """The language a conversation is in."""

    allowed: list[str] = field(default_factory=list)
    """ISO 639-1 codes that are kept; empty only counts."""
    min_confidence: float = bounded(0.5, ge=0, le=1)
    """Below this confidence a row counts as undecided, and is kept."""


@dataclass(kw_only=True)
class LengthConfig:
    """Bounds in characters and words, before any tokenizer."""

    min_prompt_words: int = bounded(0, ge=0)
    """Fewest words of the prompt."""
    max_prompt_words: int | None = bounded(None, ge=1)
    """Most words of the prompt."""
    min_answer_words: int = bounded(1, ge=0)
    """Fewest words of the last answer."""
    max_answer_words: int | None = bounded(None, ge=1)
    """Most words of the last answer."""
    min_trained_share: float = bounded(0.0, ge=0, le=1)
    """Smallest share of the characters that assistant turns hold."""
    max_trained_share: float = bounded(1.0, ge=0, le=1)
    """Largest share of the characters that assistant turns hold."""


@dataclass(kw_only=True)
class HeuristicsConfig:
    """Answers that look degenerate; each rule can be switched off."""

    repetition: bool = True
    """An answer that repeats itself."""
    max_repeated_share: float = bounded(0.6, gt=0, le=1)
    """Share of an answer's words inside 4-grams that came before from which it repeats itself (50 words and more)."""
    cut_off: bool = True
    """An answer that breaks off in the middle of a sentence or a code block."""
    teacher_phrases: bool = True
    """An answer that speaks of itself as another model ("As an AI language model")."""
    refusals: bool = False
    """An answer that refuses."""
    empty_code: bool = True
    """An answer with an empty code block."""
    echo: bool = True
    """An answer that repeats its prompt."""
    empty: bool = True
    """An empty answer."""
    action: Action = Action.drop
    """drop or report."""


@dataclass(kw_only=True)
class QualityConfig:
    """Scores that are already in a column (a judge's, AlpaGasus: arXiv:2307.08701)."""

    score: str = "quality"
    """The score; see the scores of a source."""
    min_score: float | None = None
    """Smallest score that is kept."""
    top_k: int | None = bounded(None, ge=1)
    """Keep so many rows of each source, the highest scores first."""
    keep_unscored: bool = False
    """Whether rows without the score are kept."""


@dataclass(kw_only=True)
class PerplexityConfig:
    """Scores by a model: perplexity of the answer, and instruction-following difficulty (arXiv:2308.12032)."""

    model: str | None = None
    """Directory or hub id of the model that scores; null takes model.path."""
    score: str = "ifd"
    """ifd (perplexity of the answer given the prompt over that without it), or perplexity."""
    min_score: float | None = None
    """Smallest score that is kept."""
    max_score: float | None = None
    """Largest score that is kept."""
    max_length: int = bounded(1024, ge=8)
    """Tokens the model sees of a row."""
    tokens_per_batch: int = bounded(8192, ge=8)
    """Tokens scored at once."""


@dataclass(kw_only=True)
class CleanConfig:
    """Filters, in the order they run; each sees what the ones before it left."""

    steps: list[str] = field(default_factory=lambda: ["leakage"])
    """Names of the blocks below, in order."""
    leakage: LeakageConfig = field(default_factory=LeakageConfig)
    """Training rows whose prompt is also held out."""
    exact_duplicates: ExactDuplicatesConfig = field(default_factory=ExactDuplicatesConfig)
    """Rows that are the same after normalisation."""
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    """Rows that are almost the same."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Rows that hold prompts of evaluation sets."""
    pii: PiiConfig = field(default_factory=PiiConfig)
    """Personal data and secrets."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """The language a conversation is in."""
    length: LengthConfig = field(default_factory=LengthConfig)
    """Bounds of length and of the answers' share."""
    heuristics: HeuristicsConfig = field(default_factory=HeuristicsConfig)
    """Answers that look degenerate."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Scores that are already in a column."""
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    """Scores by a model."""
