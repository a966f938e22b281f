"""Schema of ``clean``: one section per filter, and the order in which they run. Plain dataclasses."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import bounded


class Scope(str, Enum):
    """The part of two rows that is compared: the prompts, or prompts and answers."""

    prompt = "prompt"
    conversation = "conversation"


class Action(str, Enum):
    """The treatment of a row that a filter finds."""

    drop = "drop"
    report = "report"


class PiiAction(str, Enum):
    """The treatment of personal data: typed placeholders, a dropped row, or only a report."""

    redact = "redact"
    drop = "drop"
    report = "report"


class Method(str, Enum):
    """The method that finds near duplicates: MinHash over word shingles, or ROUGE-L as in Self-Instruct."""

    minhash = "minhash"
    rouge_l = "rouge_l"


@dataclass(kw_only=True)
class LeakageConfig:
    """Training rows whose prompt is also held out."""

    scope: Scope = Scope.prompt
    """prompt, or conversation: prompt and answer."""


@dataclass(kw_only=True)
class ExactDuplicatesConfig:
    """Rows that are the same after normalization, within and across sources."""

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
    """Evaluation set -> column with its prompt; default: the first of question, prompt, instruction, text."""
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
    """Kinds to search for: email, phone, card, iban, ip, secret, and national ids such as id_us, id_de, id_fr."""
    action: PiiAction = PiiAction.redact
    """redact (typed placeholders such as <EMAIL>), drop or report."""
    phone_regions: list[str] = field(default_factory=lambda: ["US"])
    """Countries whose national phone numbers are recognized without a country code."""
    roles: list[str] = field(default_factory=lambda: ["system", "user", "assistant", "tool"])
    """Roles whose messages are searched."""


@dataclass(kw_only=True)
class LanguageConfig:
    """Language of a conversation."""

    allowed: list[str] = field(default_factory=list)
    """ISO 639-1 codes to keep; empty keeps all rows and counts the languages."""
    min_confidence: float = bounded(0.5, ge=0, le=1)
    """Confidence below which the language of a row counts as undecided; such rows are kept."""


@dataclass(kw_only=True)
class LengthConfig:
    """Limits in characters and words, before tokenization."""

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
    """Find answers that repeat themselves."""
    max_repeated_share: float = bounded(0.6, gt=0, le=1)
    """Share of an answer's words in earlier 4-grams from which it counts as repetition (50 words and more)."""
    cut_off: bool = True
    """Find answers that end in the middle of a sentence or a code block."""
    teacher_phrases: bool = True
    """Find answers that call themselves another model ("As an AI language model")."""
    refusals: bool = False
    """Find answers that refuse."""
    empty_code: bool = True
    """Find answers with an empty code block."""
    echo: bool = True
    """Find answers that repeat their prompt."""
    empty: bool = True
    """Find empty answers."""
    action: Action = Action.drop
    """drop or report."""


@dataclass(kw_only=True)
class QualityConfig:
    """Scores from a column of the data (for example a judge's, AlpaGasus: arXiv:2307.08701)."""

    score: str = "quality"
    """Name of the score; see the scores of a source."""
    min_score: float | None = None
    """Lowest score to keep."""
    top_k: int | None = bounded(None, ge=1)
    """Number of rows of each source to keep, highest scores first."""
    keep_unscored: bool = False
    """Keep rows without the score."""


@dataclass(kw_only=True)
class PerplexityConfig:
    """Scores from a model: perplexity of the answer, and instruction-following difficulty (arXiv:2308.12032)."""

    model: str | None = None
    """Directory or hub id of the scoring model; null takes model.path."""
    score: str = "ifd"
    """ifd (perplexity of the answer with the prompt over that without it), or perplexity."""
    min_score: float | None = None
    """Lowest score to keep."""
    max_score: float | None = None
    """Highest score to keep."""
    max_length: int = bounded(1024, ge=8)
    """Tokens of a row that the model reads."""
    tokens_per_batch: int = bounded(8192, ge=8)
    """Tokens scored at once."""


@dataclass(kw_only=True)
class CleanConfig:
    """Filters, in the order they run; each reads the rows that the filters before it kept."""

    steps: list[str] = field(default_factory=lambda: ["leakage"])
    """Names of the filters to run, in order."""
    leakage: LeakageConfig = field(default_factory=LeakageConfig)
    """Training rows whose prompt is also held out."""
    exact_duplicates: ExactDuplicatesConfig = field(default_factory=ExactDuplicatesConfig)
    """Rows that are the same after normalization."""
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    """Rows that are almost the same."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Rows that hold prompts of evaluation sets."""
    pii: PiiConfig = field(default_factory=PiiConfig)
    """Personal data and secrets."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """The language a conversation is in."""
    length: LengthConfig = field(default_factory=LengthConfig)
    """Limits of length and of the answers' share."""
    heuristics: HeuristicsConfig = field(default_factory=HeuristicsConfig)
    """Answers that look degenerate."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Scores from a column of the data."""
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    """Scores from a model."""
