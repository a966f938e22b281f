"""Find degenerate answers by rules that can be switched off one by one.

Each assistant turn that carries loss is judged. ``teacher_phrases``, ``refusals`` and ``cut_off`` work for English only
(``cut_off`` detects an open code block in every language); the other rules do not depend on the language.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.config.schema.clean import Action, HeuristicsConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.words import normalized_words

FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*$", re.MULTILINE)
EMPTY_FENCE = re.compile(r"^[ \t]*```[ \t]*[\w+#.-]*[ \t]*\n\s*^[ \t]*```[ \t]*$", re.MULTILINE)
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
NGRAM = 4
"""Words of a repeated n-gram."""
MIN_WORDS = 50
"""Words from which an answer is judged for repetition, and for prose that is cut off."""
MIN_ECHO_WORDS = 6
"""Words that a prompt must have for an answer to echo it."""
MIN_ECHO_SHARE = 0.8
"""Share of an answer's words from which a repeated prompt counts as an echo."""
SENTENCE_END = re.compile(r"[.!?…:;)\]}\"'”’»*_`|>#=~-]\s*$|[。！？]\s*$")
SENTENCE = re.compile(r"[a-z]{2,}[,;]?(?: [\w'’“”\"()-]+[,;]?){3,}[.!?](?:\s|$)")
LIST_ITEM = re.compile(r"^\s*(?:[-*+•–]|\(?\d+[.):]|\(?[A-Za-z][.)]|\||#|>)\s?")
CODE_LINE = re.compile(r"[{};<>\\]|\w\(|^\s{4,}|^\s*(?:def|class|import|return|SELECT|FROM|for|if|while)\b")
_NO_IDENTITY = (
    r"(?! (?:called|named|trained|developed|created|made|built)\b)"  # data sets teach such an identity on purpose
)
TEACHER_PHRASE = re.compile(
    r"\bas an? (?:(?:ai|artificial intelligence)(?: language)? (?:model|assistant)|(?:large )?language model)\b"
    rf"{_NO_IDENTITY}"
    rf"|\b(?:i am|i['’]m) (?:just |only |merely )?an? (?:ai|large)?[ ]?language model\b{_NO_IDENTITY}"
    r"|\b(?:i am|i['’]m|my name is|call me) (?:chatgpt|gpt-[345]|google bard|bard|claude(?=[,.]| by| from| made))"
    r"|\b(?:i am|i['’]m|i was|i have been)\b[^.\n]{0,60}\b(?:trained|developed|created|made|built) by"
    r" (?:openai|anthropic|google|deepmind|meta|microsoft|alibaba|mistral)\b"
    r"|\bmy (?:knowledge|training)(?: data)? cut-?off\b|\bas of my (?:last|latest|knowledge) (?:update|cut-?off)\b"
    r"|\bopenai['’]s (?:content|usage|use[ -]case) polic",
    re.IGNORECASE,
)
_SORRY = r"(?:(?:i am|i['’]m) (?:\w+ )?sorry|sorry|unfortunately|i apologi[sz]e|my apologies|as an? ai[\w ]{0,30})"
_CANNOT = (
    r"(?:i )?(?:can['’]?t|can ?not|won['’]t|will not|must decline|am (?:not able|unable)"
    r"|(?:do not|don['’]t) feel comfortable)|i['’]m (?:not able|unable)"
)
_HELP = (
    r"(?:assist|help|fulfil|provide|comply|answer|do (?:that|this)|create|write|generate|engage|discuss|support|offer"
    r"|give|share|participate|complete|process)"
)
REFUSAL = re.compile(rf"^\W*{_SORRY}?[\s,.;:—-]*(?:but )?(?:{_CANNOT})(?: to)? (?:{_HELP}|\w+ing)\b", re.IGNORECASE)


class AnsweredTurn(NamedTuple):
    """An answer, the message before it, and whether the answer calls tools."""

    prompt: str
    text: str
    calls_tools: bool


class Violation(NamedTuple):
    """The violation of a rule by an answer, and the number that it is based on."""

    detail: str
    score: float | None = None


Rule = Callable[[AnsweredTurn, HeuristicsConfig], Violation | None]


def empty(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if the answer has no text and calls no tool."""
    return None if answer.text.strip() or answer.calls_tools else Violation("there is no text")


def echo(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if the answer repeats the message before it and has little other text."""
    prompt_words, answer_words = normalized_words(answer.prompt), normalized_words(answer.text)
    if (
        len(prompt_words) < MIN_ECHO_WORDS
        or len(answer_words) < len(prompt_words)
        or answer_words[: len(prompt_words)] != prompt_words
    ):
        return None
    share = len(prompt_words) / len(answer_words)
    return Violation(f"{share:.0%} of its words are the prompt's", share) if share >= MIN_ECHO_SHARE else None


def empty_code(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if the answer has an empty code block."""
    return Violation("a code block is empty") if EMPTY_FENCE.search(answer.text) else None


def repetition(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if too many words outside code are in repeated 4-grams."""
    prose = [line for line in CODE.sub(" ", answer.text).split("\n") if not CODE_LINE.search(line)]
    answer_words = normalized_words("\n".join(prose))
    share = repeated_share(answer_words) if len(answer_words) >= MIN_WORDS else 0.0
    if share < config.max_repeated_share:
        return None
    return Violation(f"{share:.0%} of its {len(answer_words)} words are in repeated pieces", share)


def repeated_share(answer_words: Sequence[str]) -> float:
    """Return the share of the words inside a repeated 4-gram; its first occurrence does not count."""
    seen: set[tuple[str, ...]] = set()
    repeated = bytearray(len(answer_words))
    for start in range(len(answer_words) - NGRAM + 1):
        gram = tuple(answer_words[start : start + NGRAM])
        if gram in seen:
            repeated[start : start + NGRAM] = b"\1" * NGRAM
        seen.add(gram)
    return sum(repeated) / max(1, len(answer_words))


def cut_off(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if a code block is never closed, or long prose ends in the middle of a sentence.

    Code, lists, tables, formulas, numbers and short answers may end anywhere.
    """
    if len(FENCE.findall(answer.text)) % 2:
        return Violation("a code block is not closed")
    text = answer.text.rstrip()
    last_line = text.rpartition("\n")[2]
    if (
        SENTENCE_END.search(text)
        or LIST_ITEM.match(last_line)
        or CODE_LINE.search(last_line)
        or "=" in last_line
        or len(text.split()) < MIN_WORDS
    ):
        return None
    tail = last_line.split()
    prose = len(tail) >= 8 and len(SENTENCE.findall(text)) >= 2
    word = tail[-1] if tail else ""
    if prose and (word.endswith(",") or (word.isalpha() and word.islower())):
        return Violation(f"it ends with {word!r}")
    return None


def teacher_phrases(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if the answer calls itself a language model, or names another developer."""
    match = TEACHER_PHRASE.search(answer.text)
    return Violation(f"it says {match[0]!r}") if match else None


def refusals(answer: AnsweredTurn, config: HeuristicsConfig) -> Violation | None:
    """Return a violation if the answer begins with a refusal."""
    match = REFUSAL.search(answer.text[:300])
    return Violation(f"it begins {match[0].strip()!r}") if match else None


RULES: Mapping[str, tuple[str, Rule]] = {
    "empty": ("empty answer", empty),
    "echo": ("repeats the prompt", echo),
    "empty_code": ("empty code block", empty_code),
    "repetition": ("repeats itself", repetition),
    "cut_off": ("cut off", cut_off),
    "teacher_phrases": ("speaks as another model", teacher_phrases),
    "refusals": ("refuses", refusals),
}
"""Name of a rule -> its reason and function; a row is dropped by the first rule that it violates."""


def enabled_rules(config: HeuristicsConfig) -> list[str]:
    """Return the rules that are switched on."""
    switches = {field.name: vars(config)[field.name] for field in fields(config)}
    return [rule for rule in RULES if switches[rule]]


def check_heuristics(config: HeuristicsConfig) -> None:
    """Refuse a configuration in which every rule is off."""
    if not enabled_rules(config):
        raise SftError(
            where="clean.heuristics",
            problem="every rule is switched off, so the filter would find nothing",
            fix=f"clean.heuristics.{next(iter(RULES))}=true, or remove heuristics from clean.steps",
        )


def find_heuristics(rows: RowView, config: HeuristicsConfig) -> Findings:
    """Return a finding for each row with a degenerate answer, and the report ``rules`` (rule -> rows)."""
    check_heuristics(config)
    return _find(rows, config)


def _find(rows: RowView, config: HeuristicsConfig) -> Findings:
    """Yield the findings of ``find_heuristics``."""
    counts = Counter[str]()
    for start, batch in rows.map(first_violations, config):
        for index, first_violation in enumerate(batch, start):
            if first_violation is None:
                continue
            rule, violation = first_violation
            counts[rule] += 1
            reason = RULES[rule][0]
            drop = config.action is Action.drop
            yield Finding(
                index,
                reason if drop else None,
                violation.detail if drop else f"{reason}: {violation.detail}",
                violation.score,
            )
    return {"rules": {rule: counts[rule] for rule in enabled_rules(config)}}


def first_violations(
    conversations: Sequence[Conversation], config: HeuristicsConfig
) -> list[tuple[str, Violation] | None]:
    """Return the first rule that each conversation violates, and the violation; None if there is none."""
    rules = enabled_rules(config)
    return [next(_violations(conversation, rules, config), None) for conversation in conversations]


def _violations(
    conversation: Conversation, rules: Sequence[str], config: HeuristicsConfig
) -> Iterator[tuple[str, Violation]]:
    """Yield the violated rules of a conversation, in the order of the rules."""
    answers = list(trained_answers(conversation))
    for rule in rules:
        for answer in answers:
            violation = RULES[rule][1](answer, config)
            if violation is not None:
                yield rule, violation


def trained_answers(conversation: Conversation) -> Iterator[AnsweredTurn]:
    """Yield the answers that carry loss."""
    prompt = ""
    for message in conversation.messages:
        if message.role == "assistant" and message.weight:
            yield AnsweredTurn(prompt, message.content, bool(message.extra.get("tool_calls")))
        prompt = message.content
