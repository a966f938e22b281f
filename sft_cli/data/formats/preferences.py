"""Rows that judge answers: a chosen and a rejected one, or one answer with a label. SFT keeps those that are good."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.fields import Fields, Knobs, wrong_type
from sft_cli.data.formats.messages import built, read_turns
from sft_cli.data.formats.prompt_completion import said_in, talked, unpacked
from sft_cli.data.formats.row_context import Context, holds
from sft_cli.data.row_errors import LeftOut, RowError, listing
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message

CHOSEN = ("chosen", "chosen_response", "chosen_messages")
REJECTED = ("rejected", "rejected_response", "rejected_messages")
LABELS = ("label", "kto_tag")
"""Columns that say whether the answer of a row is good (TRL and ms-swift; LLaMA-Factory)."""
ANSWERS = ("completion", "response", "output", "answer")
ASKED = ("prompt", "instruction", "question", "query", "conversations", "messages")
"""Columns that hold what comes before the answer, in the order in which they are tried."""
LISTS = ("conversations", "messages")
READ = (*CHOSEN, *REJECTED, *LABELS, *ANSWERS, *ASKED, "input", "system", "system_prompt", "tools")

_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_YES = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}


def refuse(columns: Collection[str], told: Collection[str], source: str, ignored: Sequence[str] = ()) -> None:
    """Refuse to guess a format for rows that judge answers, and name the one that keeps the good ones.

    Args:
        columns: Columns of the first row.
        told: Those that the source's ``tags``, ``scores`` or ``columns`` name already.
        source: Name of the source, for errors.
        ignored: Columns that are left out already.
    """
    present = {name.lower(): name for name in columns if name not in told}
    pairs = [present[name] for name in (*CHOSEN, *REJECTED) if name in present]
    labels = [present[name] for name in LABELS if name in present]
    answered = not {name.lower() for name in columns}.isdisjoint((*ANSWERS, *LISTS))
    if not pairs and not (labels and answered):
        return
    key = f"data.mix.{source}"
    problem = f"the columns {listing(pairs or labels)} judge the answers: format=auto does not choose among them"
    fix = f"{key}.format=chosen trains on the chosen answers only"
    if not pairs:
        problem = f"the column {labels[0]} seems to say which answers are good: format=auto does not choose among them"
        every = format_override(f"{key}.ignore", [*ignored, labels[0]])
        fix = f"{key}.format=chosen trains on rows whose {labels[0]} is true; {every} trains on every row"
    raise SftError(where=f"{key}.format", problem=problem, fix=fix)


def chosen(fields: Fields, knobs: Knobs) -> tuple[Conversation, ...]:
    """The conversation with the answer that was chosen, the only one that carries loss.

    Raises:
        LeftOut: The row's label is false.
        RowError: It has no answer that was chosen.
    """
    context = Context.of(fields, knobs)
    fields = unpacked(fields, (*CHOSEN, *REJECTED, *ASKED, *ANSWERS))
    _judge(fields, context)
    before, asked = _asked(fields, knobs, context)
    names = CHOSEN if _is_pair(fields) or asked in LISTS else (*CHOSEN, *ANSWERS)
    answer = next((name for name in names if holds(fields.values.get(name))), None)
    if answer is not None:
        talk, start = _joined(fields, before, _said(fields, answer, context), context)
    else:
        talk, start = before, _last_answer(before)
    if not any(message.role == "assistant" for message in talk[start:]) or (answer is None and asked not in LISTS):
        raise _no_answer(fields, context)
    _note_unused(fields, asked, answer, context)
    weighed = [
        replace(message, weight=0.0) if index < start and message.role == "assistant" else message
        for index, message in enumerate(talk)
    ]
    return (built(fields, weighed, context),)


def _joined(fields: Fields, before: list[Message], said: list[Message], context: Context) -> tuple[list[Message], int]:
    """The whole conversation, and how many of its messages come before the chosen answer.

    Raises:
        RowError: The chosen conversation begins with another question than the row's.
    """
    if all(message.role != "user" for message in said):
        return [*before, *said], len(before)
    texts = [message.content.strip() for message in said]
    if all(message.content.strip() in texts for message in before):
        return said, _shared(fields, said, context)
    if [message.role for message in said] and said[0].role in ("user", "system"):
        raise RowError(
            where=context.where,
            reason="two questions",
            problem="the chosen conversation begins with another question than the row's own",
            fix="remove one of the two columns, or leave such rows out with data.on_bad_row=drop",
        )
    return [*before, *said], len(before)


def _judge(fields: Fields, context: Context) -> None:
    """Return if the row says which of its answers is good, and no label says that it is bad."""
    if not any(holds(fields.values.get(name)) for name in (*CHOSEN, *REJECTED, *LABELS)):
        raise _no_answer(fields, context)
    for name in LABELS:
        value = fields.values.get(name)
        if not holds(value):
            continue
        key = value.strip().lower() if isinstance(value, str) else value
        good = _YES.get(key) if isinstance(key, bool | int | float | str) else None
        if good is None:
            raise wrong_type(value, fields.columns[name], "true or false", context.where)
        if not good:
            raise LeftOut(
                where=context.where,
                reason=f"{name} is false",
                problem=f"field {fields.columns[name]!r} says that its answer is not good",
                fix="remove the row, or leave it: format=chosen counts it and trains on the others",
                by="chosen",
            )


def _is_pair(fields: Fields) -> bool:
    return any(holds(fields.values.get(name)) for name in REJECTED)


def _asked(fields: Fields, knobs: Knobs, context: Context) -> tuple[list[Message], str | None]:
    """What comes before the answer, and the column it stands in."""
    name = next((name for name in ASKED if holds(fields.values.get(name))), None)
    if name is None:
        return [], None
    found = said_in(fields, name, "user", context)
    if name == "instruction" and holds(fields.values.get("input")):
        found = [Message("user", f"{fields.text('instruction')}{knobs.separator}{fields.text('input')}")]
    return found, name


def _said(fields: Fields, name: str, context: Context) -> list[Message]:
    """The messages of an answer; a transcript of Human and Assistant is one as well."""
    value = fields.values[name]
    if isinstance(value, str) and talked(value) is None and _TRANSCRIPT.match(value):
        _, *pieces = _TRANSCRIPT.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        entries = [{"role": roles[speaker], "content": text.strip()} for speaker, text in pairs]
        return read_turns(entries, fields.columns[name], context)
    return said_in(fields, name, "assistant", context)


def _shared(fields: Fields, said: Sequence[Message], context: Context) -> int:
    """How many messages a chosen conversation shares with the rejected one; without that, all but its last answer."""
    for name in REJECTED:
        value = fields.values.get(name)
        if holds(value) and (talked(value) or isinstance(value, str)):
            other = _said(fields, name, Context(context.where, context.source, context.roles))
            pairs = zip(said, other, strict=False)
            count = next((at for at, (a, b) in enumerate(pairs) if (a.role, a.content) != (b.role, b.content)), None)
            return _last_answer(said) if count is None else count
    return _last_answer(said)


def _last_answer(messages: Sequence[Message]) -> int:
    """Number of messages before the last one of the assistant."""
    return max((at for at, message in enumerate(messages) if message.role == "assistant"), default=len(messages))


def _note_unused(fields: Fields, asked: str | None, answer: str | None, context: Context) -> None:
    """Note the columns that hold something and were not needed; the rejected answers are left out on purpose."""
    used = {asked, answer, *REJECTED, *LABELS, "system", "system_prompt", "tools"}
    used |= {"input"} if asked == "instruction" else set()
    context.not_read.update(
        fields.columns[name] for name in READ if name not in used and holds(fields.values.get(name))
    )


def _no_answer(fields: Fields, context: Context) -> RowError:
    there = listing(name for name, value in fields.row.values.items() if holds(value))
    return RowError(
        where=context.where,
        reason="no chosen answer",
        problem=f"no column holds a chosen answer and what it answers; the row has {there or 'nothing'}",
        fix="give every row chosen, or an answer with a label of true; data.on_bad_row=drop leaves such rows out",
    )
