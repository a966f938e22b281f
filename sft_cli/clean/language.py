"""Detect the language of a conversation with py3langid (its bundled model; no network)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sft_cli.clean.base import Finding, Findings, RowView, require_library
from sft_cli.config.schema.clean import LanguageConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation
from sft_cli.utils.languages import DetectedLanguage, detect_language, language_identifier, without_code
from sft_cli.utils.similar import closest_name

REASON = "language not allowed"
TAG = "language"
MAX_CHARACTERS = 3000
"""Characters of a conversation's text that are classified."""
LANGUAGE_ALIASES = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "chinese": "zh",
    "cn": "zh",
    "jp": "ja",
    "nb": "no",
}
"""Common names of languages -> their codes."""


def check_language(config: LanguageConfig) -> None:
    """Refuse languages that the model does not know, and a missing library."""
    require_library("language", "py3langid")
    known = set(language_identifier().labels)
    errors = []
    for code in config.allowed:
        if code not in known:
            near = LANGUAGE_ALIASES.get(code.lower()) or closest_name(code.lower().split("-")[0].split("_")[0], known)
            fix = f"did you mean {near}?" if near else "write ISO 639-1 codes such as en, de, zh"
            problem = f"{code!r} is not a language that py3langid knows"
            errors.append(SftError(where="clean.language.allowed", problem=problem, fix=fix))
    raise_all(errors)


def find_language(rows: RowView, config: LanguageConfig) -> Findings:
    """Return a finding for each row that is dropped or gets the tag ``language``, and the report.

    A tag of the source is kept, but does not affect which rows are dropped. The report has ``languages`` (code -> rows,
    the most frequent first) and ``undecided`` rows, which are kept.
    """
    check_language(config)
    return _find(rows, config)


def _find(rows: RowView, config: LanguageConfig) -> Findings:
    """Yield the findings of ``find_language``."""
    languages, undecided = Counter[str](), 0
    for start, batch in rows.map(detect_languages, config):
        for index, (detected, tagged) in enumerate(batch, start):
            if detected.language is None:
                undecided += 1
                continue
            languages[detected.language] += 1
            detail = f"{detected.language} ({detected.confidence:.2f})"
            if config.allowed and detected.language not in config.allowed:
                yield Finding(index, REASON, detail, detected.confidence)
            elif tagged is not None:
                yield Finding(index, None, detail, detected.confidence, tagged)
    ordered = sorted(languages.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"languages": dict(ordered), "undecided": undecided}


def detect_languages(
    conversations: Sequence[Conversation], config: LanguageConfig
) -> list[tuple[DetectedLanguage, Conversation | None]]:
    """Return the detected language of each conversation, and the conversation with its tag if it had none."""
    results = []
    for conversation in conversations:
        detected = detect_language(natural_text(conversation), config.min_confidence)
        add = detected.language is not None and TAG not in conversation.tags
        tagged = replace(conversation, tags={**conversation.tags, TAG: detected.language}) if add else None
        results.append((detected, tagged))
    return results


def natural_text(conversation: Conversation) -> str:
    """Return the natural text of a conversation, at most ``MAX_CHARACTERS``, without code, formulas and numbers.

    System and tool messages are left out: they are often in another language than the question and the answer.
    """
    if conversation.text is not None:
        return without_code(conversation.text, 2 * MAX_CHARACTERS)[:MAX_CHARACTERS]
    contents = [message.content for message in conversation.messages if message.role in ("user", "assistant")]
    share = MAX_CHARACTERS // max(1, len(contents))
    texts = [without_code(text, 2 * MAX_CHARACTERS) for text in contents]
    joined = "\n".join(texts)
    return joined if len(joined) <= MAX_CHARACTERS else "\n".join(text[:share] for text in texts)
