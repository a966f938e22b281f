"""The drift card: how a model behaves, measured on any answers without a judge, and how two models differ.

Each value is a share of the answers, 0 to 1, but for ``answer_words`` (a mean), ``distinct_1`` and ``distinct_2``
(shares of n-grams) and ``self_bleu``. A value that cannot be measured is missing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from statistics import fmean
from typing import NamedTuple

from sft_cli.scoring.diversity import distinct_share, self_bleu
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.refusals import classify_refusal
from sft_cli.scoring.types import Answer, Item
from sft_cli.utils.languages import detect_language, without_code
from sft_cli.utils.words import normalized_words

ROLE_TAG = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|endoftext|eot_id|start_header_id|end_header_id|end|begin_of_text)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>"
    r"|^\s*#{2,4} ?(?:Instruction|Response|Input|Human|Assistant|User|System):"
    r"|^\s*(?:\*\*)?(?:Human|Assistant|User|System|AI|ASSISTANT|USER|HUMAN|SYSTEM)(?:\*\*)?:",
    re.MULTILINE,
)
"""Marks of turns: an answer has them if its model also writes the next turn of the user."""
OPENERS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"\W{{0,3}}(?:{pattern})", re.IGNORECASE)
    for name, pattern in {
        "opener_certainly": r"certainly\b|absolutely\b|of course\b|definitely\b|sure(?:ly| thing)?\b[,!.]|gladly\b",
        "opener_praise": r"(?:what (?:a|an) |that(?:'s|’s| is) (?:a|an) )?(?:great|good|excellent|interesting|fantastic"
        r"|wonderful) (?:question|point|idea|choice)",
        "opener_as_an_ai": r"as an? (?:ai|artificial intelligence|(?:large )?language model)"
        r"|i(?:'m|’m| am) (?:just )?an ai\b",
        "opener_here_is": r"here(?:'s|’s| is| are)\b",
        "opener_sorry": r"(?:i(?:'m|’m| am) )?(?:so |very |truly )?sorry\b|i apologi[sz]e\b|unfortunately\b",
    }.items()
}
"""Value of the card -> how the answers begin."""
SMALLER_IS_WORSE = ("stop_rate", "distinct_1", "distinct_2", "language_kept")
"""Values of the card whose limit is a smallest one."""
CARD_NAMES = ("stop_rate", "empty", "role_tags", "loops", "echo", *OPENERS, "markdown", "refusals", "answer_words",
              "distinct_1", "distinct_2", "self_bleu", "language_kept")  # fmt: skip
"""All values of the card."""
MARKDOWN = re.compile(
    r"^#{1,6} \S|^\s*[-*+] \S|^\s*\d+[.)] \S|\*\*[^*\n]+\*\*|^```|`[^`\n]+`|^\|.*\|\s*$|\[[^\[\]\n]+\]\([^()\n]+\)",
    re.MULTILINE,
)
LOOP_NGRAM = 6
"""Words of the n-grams whose repetition is a loop."""
LOOP_SHARE = 0.3
"""Share of an answer's n-grams that occurred before, from which it loops."""
LOOP_REPEATS = 3
"""Times that one piece at the end of an answer is repeated, from which it loops."""
ECHO_WORDS = 6
"""Words that a prompt must have for an answer to echo it."""
LONGEST = 100_000
"""Characters of an answer that are looked at."""
LANGUAGE_CONFIDENCE = 0.5
LANGUAGE_CHARACTERS = 1000


class CardChange(NamedTuple):
    """A value of two cards, and how much higher the second is."""

    base: float
    tuned: float
    change: float


def behaviour_card(items: Sequence[Item], answers: Sequence[Answer]) -> Mapping[str, float]:
    """Return the drift card of answers, one for each item."""
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} items and {len(answers)} answers")
    if not items:
        return {}
    texts = [answer.text.rpartition(REASONING_END)[2].strip()[:LONGEST] for answer in answers]
    words = [normalized_words(text) for text in texts]
    filled = [text for text in texts if text]
    card = {
        "stop_rate": fmean(answer.stopped for answer in answers),
        "empty": 1 - len(filled) / len(texts),
        "role_tags": _share(texts, lambda text: ROLE_TAG.search(text) is not None),
        "loops": fmean(map(loops, texts, words)),
        "echo": fmean(echoes(last_question(item), answer) for item, answer in zip(items, words, strict=True)),
        **{
            name: _share(texts, lambda text, opener=opener: opener.match(text) is not None)
            for name, opener in OPENERS.items()
        },
        "markdown": _share(texts, lambda text: MARKDOWN.search(text) is not None),
        "refusals": _share(texts, lambda text: classify_refusal(text) == "refusal"),
        "answer_words": fmean(len(text.split()) for text in texts),
    }
    for size in (1, 2):
        if (share := distinct_share(words, size)) is not None:
            card[f"distinct_{size}"] = share
    if (similarity := self_bleu(words)) is not None:
        card["self_bleu"] = similarity
    if (kept := language_kept([last_question(item) for item in items], texts)) is not None:
        card["language_kept"] = kept
    return card


def compare_cards(base: Mapping[str, float], tuned: Mapping[str, float]) -> Mapping[str, CardChange]:
    """Return the values that both cards have, side by side."""
    return {name: CardChange(base[name], tuned[name], tuned[name] - base[name]) for name in base if name in tuned}


def _share(texts: Iterable[str], holds: Callable[[str], bool]) -> float:
    """Return the share of texts for which something holds."""
    return fmean(map(holds, texts))


def last_question(item: Item) -> str:
    """Return the last message of the user; an empty text if there is none."""
    questions = [message["content"] for message in item.messages if message.get("role") == "user"]
    return str(questions[-1]) if questions else ""


def loops(text: str, words: Sequence[str]) -> bool:
    """Return whether an answer repeats itself: many n-grams occur again, or its end is one piece over and over."""
    grams = [tuple(words[start : start + LOOP_NGRAM]) for start in range(len(words) - LOOP_NGRAM + 1)]
    if len(grams) >= LOOP_NGRAM * 2 and 1 - len(set(grams)) / len(grams) >= LOOP_SHARE:
        return True
    tail = text[-2000:]
    for size in range(1, len(tail) // (LOOP_REPEATS + 1) + 1):
        piece = tail[-size:]
        repeats = LOOP_REPEATS + 1 if size >= 20 else max(LOOP_REPEATS + 1, 60 // size)
        if tail.endswith(piece * repeats) and re.search(r"\w", piece):
            return True
    return False


def echoes(question: str, words: Sequence[str]) -> bool:
    """Return whether an answer begins with the whole question."""
    asked = normalized_words(question)
    return len(asked) >= ECHO_WORDS and list(words[: len(asked)]) == asked


def language_kept(questions: Sequence[str], texts: Sequence[str]) -> float | None:
    """Return the share of answers in the language of their question; None if no pair of languages is certain."""
    if find_spec("py3langid") is None:
        return None
    kept = []
    for question, text in zip(questions, texts, strict=True):
        asked, found = _language(question), _language(text)
        if asked is not None and found is not None:
            kept.append(asked == found)
    return fmean(kept) if kept else None


def _language(text: str) -> str | None:
    """Return the language of a text; None if it is not certain."""
    return detect_language(without_code(text, LANGUAGE_CHARACTERS), LANGUAGE_CONFIDENCE).language
