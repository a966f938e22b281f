"""The language a conversation is in, told by py3langid (its bundled model; no network)."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from sft_cli.clean.base import Finding, Found, Rows
from sft_cli.config.schema.clean import LanguageConfig
from sft_cli.data.row_errors import nearest
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation
from sft_cli.utils.optional_deps import needs

REASON = "language not allowed"
TAG = "language"
CHARACTERS = 3000
"""Of a conversation's text that are looked at."""
FEWEST_LETTERS = 15
"""Below so many letters a guess is no better than chance; a character of East Asia says as much as three."""
EAST_ASIA = "\u2e80"
"""The first character of the East Asian scripts."""
NOT_SAID = re.compile(
    r"```.*?(?:```|\Z)"  # code blocks
    r"|`[^`\n]*`"
    r"|\$\$.*?\$\$|\\\(.*?\\\)|\\\[.*?\\\]"  # formulas
    r"|\w+://\S+|\S+@\S+"
    r"|<[^<>\n]{1,80}>"  # markup and placeholders
    r"|[^\W_]*\d\w*",
    re.DOTALL,
)
"""What has no language."""
SPOKEN_AS = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "chinese": "zh",
    "cn": "zh",
    "jp": "ja",
    "nb": "no",
}
"""Names people type for codes."""


class Guess(NamedTuple):
    """A language, None when undecided, and how sure the model is of the likeliest one (0 to 1)."""

    language: str | None
    confidence: float


def check(config: LanguageConfig) -> None:
    """Refuse languages the model does not know, and a missing library."""
    needs("py3langid", "language")
    known = set(_identifier().labels)
    errors = []
    for code in config.allowed:
        if code not in known:
            near = SPOKEN_AS.get(code.lower()) or nearest(code.lower().split("-")[0].split("_")[0], known)
            fix = f"did you mean {near}?" if near else "write ISO 639-1 codes such as en, de, zh"
            problem = f"{code!r} is not a language that py3langid knows"
            errors.append(SftError(where="clean.language.allowed", problem=problem, fix=fix))
    raise_all(errors)


@cache
def _identifier() -> Any:
    """The model of py3langid over all its languages, with confidences."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def find(rows: Rows, config: LanguageConfig) -> Finding:
    """A finding for each row that is dropped or gets the tag ``language``.

    A tag that the source brought stays; the rows are judged by what is recognised all the same. The report:
    ``languages`` (code -> rows, the most frequent first) and ``undecided`` rows, which are kept.
    """
    check(config)
    return _find(rows, config)


def _find(rows: Rows, config: LanguageConfig) -> Finding:
    """See ``find``."""
    languages, undecided = Counter[str](), 0
    for start, batch in rows.map(judge, config):
        for index, (guess, tagged) in enumerate(batch, start):
            if guess.language is None:
                undecided += 1
                continue
            languages[guess.language] += 1
            detail = f"{guess.language} ({guess.confidence:.2f})"
            if config.allowed and guess.language not in config.allowed:
                yield Found(index, REASON, detail, guess.confidence)
            elif tagged is not None:
                yield Found(index, None, detail, guess.confidence, tagged)
    ordered = sorted(languages.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"languages": dict(ordered), "undecided": undecided}


def judge(conversations: Sequence[Conversation], config: LanguageConfig) -> list[tuple[Guess, Conversation | None]]:
    """The guess for each conversation, and the conversation with its tag if it had none."""
    judged = []
    for conversation in conversations:
        guess = detect(spoken(conversation), config.min_confidence)
        add = guess.language is not None and TAG not in conversation.tags
        tagged = replace(conversation, tags={**conversation.tags, TAG: guess.language}) if add else None
        judged.append((guess, tagged))
    return judged


def spoken(conversation: Conversation) -> str:
    """The natural text of a conversation, at most ``CHARACTERS``: code, formulas, addresses and numbers taken out.

    System and tool messages are left out: they are often in another language than what is asked and answered.
    """
    if conversation.text is not None:
        return _natural(conversation.text)[:CHARACTERS]
    said = [message.content for message in conversation.messages if message.role in ("user", "assistant")]
    share = CHARACTERS // max(1, len(said))
    texts = [_natural(text) for text in said]
    whole = "\n".join(texts)
    return whole if len(whole) <= CHARACTERS else "\n".join(text[:share] for text in texts)


def _natural(text: str) -> str:
    """The text without what has no language."""
    return NOT_SAID.sub(" ", text[: 2 * CHARACTERS])


def detect(text: str, min_confidence: float) -> Guess:
    """The language of a text; undecided below the confidence, and where hardly a letter stands."""
    if sum(3 if character >= EAST_ASIA else 1 for character in text if character.isalpha()) < FEWEST_LETTERS:
        return Guess(None, 0.0)
    language, confidence = _identifier().classify(text)
    return Guess(str(language) if confidence >= min_confidence and language != "zxx" else None, float(confidence))
