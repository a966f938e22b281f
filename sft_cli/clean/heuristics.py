"""Answers that look degenerate, by rules that can be switched off one by one.

Each assistant turn that carries loss is judged. ``teacher_phrases``, ``refusals`` and ``cut_off`` know English only (a
cut-off code block is seen in every language); the other rules know no language.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

from sft_cli.clean.base import Finding, Found, Rows, words
from sft_cli.config.schema.clean import Action, HeuristicsConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation

FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*$", re.MULTILINE)
EMPTY_FENCE = re.compile(r"^[ \t]*```[ \t]*[\w+#.-]*[ \t]*\n\s*^[ \t]*```[ \t]*$", re.MULTILINE)
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
GRAM = 4
"""Words of a repeated piece."""
FEWEST_WORDS = 50
"""Shorter answers are not judged by repetition or as cut off prose."""
ECHO_WORDS = 6
"""Words a prompt must have for an answer to echo it."""
ECHO_SHARE = 0.8
"""Share of an answer's words from which a repeated prompt is all it says."""
ENDS = re.compile(r"[.!?…:;)\]}\"'”’»*_`|>#=~-]\s*$|[。！？]\s*$")
SENTENCE = re.compile(r"[a-z]{2,}[,;]?(?: [\w'’“”\"()-]+[,;]?){3,}[.!?](?:\s|$)")
ITEM = re.compile(r"^\s*(?:[-*+•–]|\(?\d+[.):]|\(?[A-Za-z][.)]|\||#|>)\s?")
CODE_LINE = re.compile(r"[{};<>\\]|\w\(|^\s{4,}|^\s*(?:def|class|import|return|SELECT|FROM|for|if|while)\b")
_NO_IDENTITY = r"(?! (?:called|named|trained|developed|created|made|built)\b)"  # what a data set teaches on purpose
TEACHER = re.compile(
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


class Turn(NamedTuple):
    """An answer, and the message before it."""

    asked: str
    said: str
    calls_tools: bool


class Verdict(NamedTuple):
    """What a rule says about an answer, with the number behind it."""

    detail: str
    score: float | None = None


Rule = Callable[[Turn, HeuristicsConfig], Verdict | None]


def empty(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """Nothing is said, and no tool is called."""
    return None if turn.said.strip() or turn.calls_tools else Verdict("there is no text")


def echo(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """The answer repeats the message before it and says hardly anything else."""
    asked, said = words(turn.asked), words(turn.said)
    if len(asked) < ECHO_WORDS or len(said) < len(asked) or said[: len(asked)] != asked:
        return None
    share = len(asked) / len(said)
    return Verdict(f"{share:.0%} of its words are the prompt's", share) if share >= ECHO_SHARE else None


def empty_code(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """A code block without code."""
    return Verdict("a code block holds nothing") if EMPTY_FENCE.search(turn.said) else None


def repetition(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """Too many words outside code stand in pieces of four words that came before."""
    prose = [line for line in CODE.sub(" ", turn.said).split("\n") if not CODE_LINE.search(line)]
    said = words("\n".join(prose))
    share = repeated_share(said) if len(said) >= FEWEST_WORDS else 0.0
    if share < config.max_repeated_share:
        return None
    return Verdict(f"{share:.0%} of its {len(said)} words are in pieces said before", share)


def repeated_share(said: Sequence[str]) -> float:
    """Share of the words inside a 4-gram that occurred before; the first occurrence does not count."""
    seen: set[tuple[str, ...]] = set()
    repeated = bytearray(len(said))
    for start in range(len(said) - GRAM + 1):
        gram = tuple(said[start : start + GRAM])
        if gram in seen:
            repeated[start : start + GRAM] = b"\1" * GRAM
        seen.add(gram)
    return sum(repeated) / max(1, len(said))


def cut_off(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """A code block is never closed, or long prose ends in the middle of a sentence.

    Code, lists, tables, formulas, numbers and short answers may end as they like.
    """
    if len(FENCE.findall(turn.said)) % 2:
        return Verdict("a code block is not closed")
    text = turn.said.rstrip()
    last = text.rpartition("\n")[2]
    if (
        ENDS.search(text)
        or ITEM.match(last)
        or CODE_LINE.search(last)
        or "=" in last
        or len(text.split()) < FEWEST_WORDS
    ):
        return None
    tail = last.split()
    prose = len(tail) >= 8 and len(SENTENCE.findall(text)) >= 2
    word = tail[-1] if tail else ""
    if prose and (word.endswith(",") or (word.isalpha() and word.islower())):
        return Verdict(f"it ends with {word!r}")
    return None


def teacher_phrases(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """The answer speaks of itself as a language model, or as another maker's."""
    match = TEACHER.search(turn.said)
    return Verdict(f"it says {match[0]!r}") if match else None


def refusals(turn: Turn, config: HeuristicsConfig) -> Verdict | None:
    """The answer begins by refusing."""
    match = REFUSAL.search(turn.said[:300])
    return Verdict(f"it begins {match[0].strip()!r}") if match else None


RULES: Mapping[str, tuple[str, Rule]] = {
    "empty": ("empty answer", empty),
    "echo": ("repeats the prompt", echo),
    "empty_code": ("empty code block", empty_code),
    "repetition": ("repeats itself", repetition),
    "cut_off": ("cut off", cut_off),
    "teacher_phrases": ("speaks as another model", teacher_phrases),
    "refusals": ("refuses", refusals),
}
"""Switch -> the reason, and the rule; a row is dropped for the first that speaks."""


def chosen(config: HeuristicsConfig) -> list[str]:
    """The rules that are switched on."""
    on = {field.name: vars(config)[field.name] for field in fields(config)}
    return [rule for rule in RULES if on[rule]]


def check(config: HeuristicsConfig) -> None:
    """Refuse a step in which every rule is off."""
    if not chosen(config):
        raise SftError(
            where="clean.heuristics",
            problem="every rule is switched off, so nothing would be found",
            fix="switch one on, or take heuristics out of clean.steps",
        )


def find(rows: Rows, config: HeuristicsConfig) -> Finding:
    """A finding for each row with a degenerate answer. The report: ``rules`` (rule -> rows)."""
    check(config)
    return _find(rows, config)


def _find(rows: Rows, config: HeuristicsConfig) -> Finding:
    """See ``find``."""
    counts = Counter[str]()
    for start, batch in rows.map(judge, config):
        for index, judged in enumerate(batch, start):
            if judged is None:
                continue
            rule, verdict = judged
            counts[rule] += 1
            reason = RULES[rule][0]
            drop = config.action is Action.drop
            yield Found(
                index,
                reason if drop else None,
                verdict.detail if drop else f"{reason}: {verdict.detail}",
                verdict.score,
            )
    return {"rules": {rule: counts[rule] for rule in chosen(config)}}


def judge(conversations: Sequence[Conversation], config: HeuristicsConfig) -> list[tuple[str, Verdict] | None]:
    """For each conversation the first rule that speaks, and what it says."""
    rules = chosen(config)
    return [next(_verdicts(conversation, rules, config), None) for conversation in conversations]


def _verdicts(
    conversation: Conversation, rules: Sequence[str], config: HeuristicsConfig
) -> Iterator[tuple[str, Verdict]]:
    """What the rules say, in their order."""
    answers = list(turns(conversation))
    for rule in rules:
        for turn in answers:
            verdict = RULES[rule][1](turn, config)
            if verdict is not None:
                yield rule, verdict


def turns(conversation: Conversation) -> Iterator[Turn]:
    """The answers that carry loss."""
    asked = ""
    for message in conversation.messages:
        if message.role == "assistant" and message.weight:
            yield Turn(asked, message.content, bool(message.extra.get("tool_calls")))
        asked = message.content
