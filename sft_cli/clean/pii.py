"""Personal data and secrets: replaced by typed placeholders such as ``<EMAIL>``, or their rows dropped or reported.

Searched are the messages of the chosen roles (content, reasoning, tool-call arguments) and whole documents; tool
schemas and rows of token ids are not. What is found in one message is replaced wherever it stands on its own in the
conversation, and special tokens, ``{{name}}`` and placeholders are never cut.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.clean.pii_national import NATIONAL, national_id_spans
from sft_cli.clean.pii_patterns import FINDERS, Span, phone_spans
from sft_cli.clean.pii_texts import map_texts, message_texts
from sft_cli.config.schema.clean import PiiAction, PiiConfig
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation
from sft_cli.utils.optional_deps import needs
from sft_cli.utils.similar import closest_name

REASON = "personal data"
MAX_EXAMPLES = 20
ROLES = ("system", "user", "assistant", "tool")
KINDS = (*FINDERS, *NATIONAL, "phone")
"""All kinds; the earlier one wins where two overlap."""
CHECKED_BY_STDNUM = ("card", "iban", *NATIONAL)
PROTECTED = re.compile(
    r"<\|[\w▁]{1,40}\|>|</?[a-z_]{1,20}>|\{\{\s*\w{1,40}\s*\}\}|\[/?[A-Z_]{2,20}\]|<[A-Z]{2,6}(?:_[A-Z]{2})?>"
)
"""Special tokens, variables to fill, and placeholders: no finding reaches into one."""

ESCAPES = re.compile(r"\\+(?:(?P<gap>[bfnrt]|u00[01][0-9a-fA-F])|u[0-9a-fA-F]{4})")
"""In JSON and code: a written line end is a gap between words, a written character a letter."""


class PiiHit(NamedTuple):
    """Something that was found; its text goes into no report and no ledger."""

    kind: str
    text: str


class RowPii(NamedTuple):
    """What one row holds.

    Attributes:
        counts: Kind -> times it was found; empty for a clean row.
        masked: Kind and masked text of each finding, a few.
        redacted: The conversation with placeholders, if that is asked for and something was found.
        searched: Whether there was text to search.
    """

    counts: Mapping[str, int]
    masked: tuple[tuple[str, str], ...] = ()
    redacted: Conversation | None = None
    searched: bool = True


NO_PII = RowPii({})


def check_pii(config: PiiConfig) -> None:
    """Refuse kinds, roles and regions that do not exist, and a missing library."""
    raise_all([*_unknown_names("kinds", config.kinds, KINDS), *_unknown_names("roles", config.roles, ROLES)])
    if not set(config.kinds).isdisjoint(CHECKED_BY_STDNUM):
        needs("stdnum", "pii")
    if "phone" in config.kinds:
        needs("phonenumbers", "pii")
        from phonenumbers import SUPPORTED_REGIONS

        raise_all(list(_unknown_names("phone_regions", config.phone_regions, sorted(SUPPORTED_REGIONS))))


def _unknown_names(key: str, chosen: Sequence[str], known: Sequence[str]) -> Iterator[SftError]:
    """The mistakes in a list of names."""
    where = f"clean.pii.{key}"
    regions = key == "phone_regions"
    choices = "write country codes such as US, DE, GB" if regions else f"choose from {format_list(known, limit=40)}"
    if not chosen and not regions:
        yield SftError(where=where, problem="the list is empty, so nothing would be searched", fix=choices)
    for name in chosen:
        if name not in known:
            near = name.upper() if regions and name.upper() in known else None if regions else closest_name(name, known)
            fix = f"did you mean {near}? {choices}" if near else choices
            yield SftError(where=where, problem=f"unknown name {name!r}", fix=fix)


def find_pii(rows: RowView, config: PiiConfig) -> Findings:
    """Find the rows that hold personal data; with ``action=redact`` each finding brings the redacted conversation.

    The report: ``kinds`` (rows and findings of each), ``examples`` (place, kind and masked text, some of each kind),
    ``not_searched`` (rows of token ids).
    """
    check_pii(config)
    return _find(rows, config)


def _find(rows: RowView, config: PiiConfig) -> Findings:
    """See ``find_pii``."""
    in_rows, found, shown = Counter[str](), Counter[str](), Counter[str]()
    examples: list[dict[str, str]] = []
    not_searched = 0
    for start, batch in rows.map(search_conversations, config):
        for index, row_pii in enumerate(batch, start):
            not_searched += not row_pii.searched
            if not row_pii.counts:
                continue
            in_rows.update(row_pii.counts.keys())
            found.update(row_pii.counts)
            for kind, masked in row_pii.masked:
                if shown[kind] < max(1, MAX_EXAMPLES // len(config.kinds)) and len(examples) < MAX_EXAMPLES:
                    shown[kind] += 1
                    examples.append({"where": rows[index].where, "kind": kind, "masked": masked})
            counted = ", ".join(f"{count} {kind}" for kind, count in row_pii.counts.items())
            reason = REASON if config.action is PiiAction.drop else None
            yield Finding(index, reason, counted, float(sum(row_pii.counts.values())), row_pii.redacted)
    kinds = {kind: {"rows": in_rows[kind], "found": found[kind]} for kind in KINDS if kind in config.kinds}
    return {"kinds": kinds, "examples": examples, "not_searched": not_searched}


def search_conversations(conversations: Sequence[Conversation], config: PiiConfig) -> list[RowPii]:
    """What each conversation holds."""
    return [_search(conversation, config) for conversation in conversations]


def _search(conversation: Conversation, config: PiiConfig) -> RowPii:
    """What one conversation holds."""
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
    """The conversation with a placeholder for each finding, and the findings; itself and none if it is clean.

    A placeholder may free a number beside it from its neighbours, so the search is repeated until it finds nothing:
    redacting twice is redacting once.
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
            left = [known for known in kinds if known in text]
            return _isolated(left).sub(lambda match: pii_placeholder(kinds[match[0]]), text) if left else text

        changed = map_texts(conversation, config.roles, change)
        assert changed is not conversation, "what is found is replaced, or the search would never end"
        conversation = changed


def _isolated(strings: Collection[str]) -> re.Pattern[str]:
    """Any of the strings, the longest first, where no letter or digit touches it."""
    ordered = sorted(strings, key=lambda text: (-len(text), text))
    return re.compile(rf"(?:(?<!\w)|(?<=\\[bfnrt]))(?:{'|'.join(re.escape(text) for text in ordered)})(?!\w)")


def _hits_in(text: str, config: PiiConfig) -> list[PiiHit]:
    """The findings in one text."""
    return [PiiHit(kind, text[start:end]) for kind, (start, end) in find_spans(text, config)]


def find_spans(text: str, config: PiiConfig) -> list[tuple[str, Span]]:
    """Kinds and places in the text in ascending order, none overlapping another or a protected piece."""
    if "\\" in text:
        text = ESCAPES.sub(lambda match: (" " if match["gap"] else "x") * len(match[0]), text)
    taken: list[tuple[str, Span]] = []
    covered: bytearray | None = None  # most texts have no finding
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
    """For each character whether a finding must not reach it."""
    covered = bytearray(len(text))
    for match in PROTECTED.finditer(text):
        covered[match.start() : match.end()] = b"\1" * len(match[0])
    return covered


def _spans(kind: str, text: str, config: PiiConfig) -> Iterable[Span]:
    """Places of one kind."""
    if kind == "phone":
        return phone_spans(text, config.phone_regions)
    return FINDERS[kind](text) if kind in FINDERS else national_id_spans(kind, text)


def pii_placeholder(kind: str) -> str:
    """``<EMAIL>``, ``<ID_US>``."""
    return f"<{kind.upper()}>"


def mask_text(text: str) -> str:
    """The first character and the length: enough to find it, too little to use it."""
    return f"{text[0]}… ({len(text)} characters)"
