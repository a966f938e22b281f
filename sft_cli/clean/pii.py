"""Find personal data and secrets, and redact them with placeholders such as ``<EMAIL>``, or drop or report the rows.

The filter searches the messages of the chosen roles (content, reasoning, tool-call arguments) and whole documents, but
not tool schemas and rows of token ids. A finding in one message is replaced wherever it occurs as a whole word in the
conversation. Special tokens, ``{{name}}`` and placeholders are never changed.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sft_cli.clean.base import Finding, Findings, RowView, require_library
from sft_cli.clean.pii_national import NATIONAL, national_id_spans
from sft_cli.clean.pii_patterns import FINDERS, Span, phone_spans
from sft_cli.clean.pii_texts import map_texts, message_texts
from sft_cli.config.schema.clean import PiiAction, PiiConfig
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation
from sft_cli.utils.similar import closest_name

REASON = "personal data"
MAX_EXAMPLES = 20
ROLES = ("system", "user", "assistant", "tool")
KINDS = (*FINDERS, *NATIONAL, "phone")
"""All kinds; the earlier one wins if two overlap."""
CHECKED_BY_STDNUM = ("card", "iban", *NATIONAL)
PROTECTED = re.compile(
    r"<\|[\w▁]{1,40}\|>|</?[a-z_]{1,20}>|\{\{\s*\w{1,40}\s*\}\}|\[/?[A-Z_]{2,20}\]|<[A-Z]{2,6}(?:_[A-Z]{2})?>"
)
"""Special tokens, variables and placeholders: no finding may overlap one."""

ESCAPES = re.compile(r"\\+(?:(?P<gap>[bfnrt]|u00[01][0-9a-fA-F])|u[0-9a-fA-F]{4})")
"""Escapes in JSON and code: an escaped line end separates words, an escaped character is a letter."""


class PiiHit(NamedTuple):
    """A kind and the text that was found; the text is never written to a report or the ledger."""

    kind: str
    text: str


class RowPii(NamedTuple):
    """The findings in one row.

    Attributes:
        counts: Kind -> number of findings; empty for a clean row.
        masked: Kind and masked text of the first few findings.
        redacted: The conversation with placeholders, if the action is redact and there are findings.
        searched: Whether the row has text to search.
    """

    counts: Mapping[str, int]
    masked: tuple[tuple[str, str], ...] = ()
    redacted: Conversation | None = None
    searched: bool = True


NO_PII = RowPii({})


def check_pii(config: PiiConfig) -> None:
    """Refuse unknown kinds, roles and regions, and a missing library."""
    raise_all([*_unknown_names("kinds", config.kinds, KINDS), *_unknown_names("roles", config.roles, ROLES)])
    if not set(config.kinds).isdisjoint(CHECKED_BY_STDNUM):
        require_library("pii", "stdnum")
    if "phone" in config.kinds:
        require_library("pii", "phonenumbers")
        from phonenumbers import SUPPORTED_REGIONS

        raise_all(list(_unknown_names("phone_regions", config.phone_regions, sorted(SUPPORTED_REGIONS))))


def _unknown_names(key: str, chosen: Sequence[str], known: Sequence[str]) -> Iterator[SftError]:
    """Yield the errors in a list of names."""
    where = f"clean.pii.{key}"
    regions = key == "phone_regions"
    choices = "write country codes such as US, DE, GB" if regions else f"choose from {format_list(known, limit=40)}"
    if not chosen and not regions:
        yield SftError(where=where, problem="the list is empty, so the filter would find nothing", fix=choices)
    for name in chosen:
        if name not in known:
            near = name.upper() if regions and name.upper() in known else None if regions else closest_name(name, known)
            fix = f"did you mean {near}? {choices}" if near else choices
            yield SftError(where=where, problem=f"unknown name {name!r}", fix=fix)


def find_pii(rows: RowView, config: PiiConfig) -> Findings:
    """Return a finding for each row with personal data, and the report; ``action=redact`` adds redacted conversations.

    The report has ``kinds`` (rows and findings of each), ``examples`` (location, kind and masked text, some of each
    kind) and ``not_searched`` (rows of token ids).
    """
    check_pii(config)
    return _find(rows, config)


def _find(rows: RowView, config: PiiConfig) -> Findings:
    """Yield the findings of ``find_pii``."""
    in_rows, total, shown = Counter[str](), Counter[str](), Counter[str]()
    examples: list[dict[str, str]] = []
    not_searched = 0
    for start, batch in rows.map(search_conversations, config):
        for index, row_pii in enumerate(batch, start):
            not_searched += not row_pii.searched
            if not row_pii.counts:
                continue
            in_rows.update(row_pii.counts.keys())
            total.update(row_pii.counts)
            for kind, masked in row_pii.masked:
                if shown[kind] < max(1, MAX_EXAMPLES // len(config.kinds)) and len(examples) < MAX_EXAMPLES:
                    shown[kind] += 1
                    examples.append({"where": rows[index].where, "kind": kind, "masked": masked})
            counted = ", ".join(f"{count} {kind}" for kind, count in row_pii.counts.items())
            reason = REASON if config.action is PiiAction.drop else None
            yield Finding(index, reason, counted, float(sum(row_pii.counts.values())), row_pii.redacted)
    kinds = {kind: {"rows": in_rows[kind], "found": total[kind]} for kind in KINDS if kind in config.kinds}
    return {"kinds": kinds, "examples": examples, "not_searched": not_searched}


def search_conversations(conversations: Sequence[Conversation], config: PiiConfig) -> list[RowPii]:
    """Return the findings in each conversation."""
    return [_search(conversation, config) for conversation in conversations]


def _search(conversation: Conversation, config: PiiConfig) -> RowPii:
    """Return the findings in one conversation."""
    if conversation.tokens is not None:
        return RowPii({}, searched=False)
    redacted, hits = redact_conversation(conversation, config)
    if not hits:
        return NO_PII
    counts = Counter(hit.kind for hit in hits)
    ordered = {kind: counts[kind] for kind in KINDS if counts[kind]}
    masked = tuple((hit.kind, mask_text(hit.text)) for hit in hits[:MAX_EXAMPLES])
    return RowPii(ordered, masked, redacted if config.action is PiiAction.redact else None)


def redact_conversation(conversation: Conversation, config: PiiConfig) -> tuple[Conversation, list[PiiHit]]:
    """Return the conversation with a placeholder for each finding, and the findings; unchanged if there are none.

    A placeholder may turn its neighbors into a finding, so the search is repeated until it finds nothing: redaction is
    idempotent.
    """
    hits: list[PiiHit] = []
    while True:
        new = [hit for text in message_texts(conversation, config.roles) for hit in _hits_in(text, config)]
        if not new:
            return conversation, hits
        hits += new
        kinds = {hit.text: hit.kind for hit in reversed(new)}

        def change(text: str, kinds: Mapping[str, str] = kinds) -> str:
            """Replace personal data in a text by placeholders."""
            for kind, (start, end) in reversed(find_spans(text, config)):
                text = text[:start] + pii_placeholder(kind) + text[end:]
            remaining = [known for known in kinds if known in text]
            return _isolated(remaining).sub(lambda match: pii_placeholder(kinds[match[0]]), text) if remaining else text

        changed = map_texts(conversation, config.roles, change)
        assert changed is not conversation, "every finding is replaced, or the search would not end"
        conversation = changed


def _isolated(strings: Collection[str]) -> re.Pattern[str]:
    """Return a pattern of any of the strings, the longest first, without adjacent letters or digits."""
    ordered = sorted(strings, key=lambda text: (-len(text), text))
    return re.compile(rf"(?:(?<!\w)|(?<=\\[bfnrt]))(?:{'|'.join(re.escape(text) for text in ordered)})(?!\w)")


def _hits_in(text: str, config: PiiConfig) -> list[PiiHit]:
    """Return the findings in one text."""
    return [PiiHit(kind, text[start:end]) for kind, (start, end) in find_spans(text, config)]


def find_spans(text: str, config: PiiConfig) -> list[tuple[str, Span]]:
    """Return kinds and ranges in a text, ascending, which overlap neither each other nor protected text."""
    if "\\" in text:
        text = ESCAPES.sub(lambda match: (" " if match["gap"] else "x") * len(match[0]), text)
    taken: list[tuple[str, Span]] = []
    covered: bytearray | None = None  # built on demand: most texts have no finding
    for kind in KINDS:
        if kind not in config.kinds:
            continue
        for start, end in _spans(kind, text, config):
            covered = _protected_characters(text) if covered is None else covered
            if not any(covered[start:end]):
                taken.append((kind, (start, end)))
                covered[start:end] = b"\1" * (end - start)
    return sorted(taken, key=lambda pair: pair[1])


def _protected_characters(text: str) -> bytearray:
    """Return for each character whether findings must not include it."""
    covered = bytearray(len(text))
    for match in PROTECTED.finditer(text):
        covered[match.start() : match.end()] = b"\1" * len(match[0])
    return covered


def _spans(kind: str, text: str, config: PiiConfig) -> Iterable[Span]:
    """Return the ranges of one kind."""
    if kind == "phone":
        return phone_spans(text, config.phone_regions)
    return FINDERS[kind](text) if kind in FINDERS else national_id_spans(kind, text)


def pii_placeholder(kind: str) -> str:
    """Return the placeholder of a kind, such as ``<EMAIL>`` or ``<ID_US>``."""
    return f"<{kind.upper()}>"


def mask_text(text: str) -> str:
    """Return the first character and the length: enough to find the text, too little to use it."""
    return f"{text[0]}… ({len(text)} characters)"
