"""Rows that judge answers: a chosen and a rejected one, or one answer with a label. SFT keeps those that are good."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.fields import Fields, FormatOptions, wrong_type
from sft_cli.data.formats.messages import build_conversation, parse_messages
from sft_cli.data.formats.prompt_completion import as_message_list, messages_in_column, parse_message_columns
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.row_errors import RowError, RowExcluded, format_list
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message

CHOSEN = ("chosen", "chosen_response", "chosen_messages")
REJECTED = ("rejected", "rejected_response", "rejected_messages")
LABELS = ("label", "kto_tag")
"""Columns that say whether the answer of a row is good (TRL and ms-swift; LLaMA-Factory)."""
ANSWERS = ("completion", "response", "output", "answer")
PROMPTS = ("prompt", "instruction", "question", "query", "conversations", "messages")
"""Columns that hold what comes before the answer, in the order in which they are tried."""
LISTS = ("conversations", "messages")
READ = (*CHOSEN, *REJECTED, *LABELS, *ANSWERS, *PROMPTS, "input", "system", "system_prompt", "tools")

_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_LABEL_VALUES = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}


def refuse_preferences(
    columns: Collection[str], named: Collection[str], source: str, ignored: Sequence[str] = ()
) -> None:
    """Refuse to guess a format for rows that judge answers, and name the one that keeps the good ones.

    Args:
        columns: Columns of the first row.
        named: Those that the source's ``tags``, ``scores`` or ``columns`` name already.
        source: Name of the source, for errors.
        ignored: Columns that are left out already.
    """
    present = {name.lower(): name for name in columns if name not in named}
    pairs = [present[name] for name in (*CHOSEN, *REJECTED) if name in present]
    labels = [present[name] for name in LABELS if name in present]
    answered = not {name.lower() for name in columns}.isdisjoint((*ANSWERS, *LISTS))
    if not pairs and not (labels and answered):
        return
    key = f"data.mix.{source}"
    problem = f"the columns {format_list(pairs or labels)} judge the answers: format=auto does not choose among them"
    fix = f"{key}.format=chosen trains on the chosen answers only"
    if not pairs:
        problem = f"the column {labels[0]} seems to say which answers are good: format=auto does not choose among them"
        every = format_override(f"{key}.ignore", [*ignored, labels[0]])
        fix = f"{key}.format=chosen trains on rows whose {labels[0]} is true; {every} trains on every row"
    raise SftError(where=f"{key}.format", problem=problem, fix=fix)


def from_preferences(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """The conversation with the answer that was chosen, the only one that carries loss.

    Raises:
        LeftOut: The row's label is false.
        RowError: It has no answer that was chosen.
    """
    context = RowContext.from_fields(fields, options)
    fields = parse_message_columns(fields, (*CHOSEN, *REJECTED, *PROMPTS, *ANSWERS))
    _check_label(fields, context)
    before, prompt_column = _prompt_messages(fields, options, context)
    names = CHOSEN if _is_pair(fields) or prompt_column in LISTS else (*CHOSEN, *ANSWERS)
    answer = next((name for name in names if has_value(fields.values.get(name))), None)
    if answer is not None:
        messages, start = _join_answer(fields, before, _answer_messages(fields, answer, context), context)
    else:
        messages, start = before, _last_answer(before)
    if not any(message.role == "assistant" for message in messages[start:]) or (
        answer is None and prompt_column not in LISTS
    ):
        raise _no_answer(fields, context)
    _note_unused(fields, prompt_column, answer, context)
    weighted = [
        replace(message, weight=0.0) if index < start and message.role == "assistant" else message
        for index, message in enumerate(messages)
    ]
    return (build_conversation(fields, weighted, context),)


def _join_answer(
    fields: Fields, before: list[Message], answer_messages: list[Message], context: RowContext
) -> tuple[list[Message], int]:
    """The whole conversation, and how many of its messages come before the chosen answer.

    Raises:
        RowError: The chosen conversation begins with another question than the row's.
    """
    if all(message.role != "user" for message in answer_messages):
        return [*before, *answer_messages], len(before)
    texts = [message.content.strip() for message in answer_messages]
    if all(message.content.strip() in texts for message in before):
        return answer_messages, _shared(fields, answer_messages, context)
    if [message.role for message in answer_messages] and answer_messages[0].role in ("user", "system"):
        raise RowError(
            where=context.where,
            reason="two questions",
            problem="the chosen conversation begins with another question than the row's own",
            fix="remove one of the two columns, or leave such rows out with data.on_bad_row=drop",
        )
    return [*before, *answer_messages], len(before)


def _check_label(fields: Fields, context: RowContext) -> None:
    """Return if the row says which of its answers is good, and no label says that it is bad."""
    if not any(has_value(fields.values.get(name)) for name in (*CHOSEN, *REJECTED, *LABELS)):
        raise _no_answer(fields, context)
    for name in LABELS:
        value = fields.values.get(name)
        if not has_value(value):
            continue
        key = value.strip().lower() if isinstance(value, str) else value
        good = _LABEL_VALUES.get(key) if isinstance(key, bool | int | float | str) else None
        if good is None:
            raise wrong_type(value, fields.columns[name], "true or false", context.where)
        if not good:
            raise RowExcluded(
                where=context.where,
                reason=f"{name} is false",
                problem=f"field {fields.columns[name]!r} says that its answer is not good",
                fix="remove the row, or leave it: format=chosen counts it and trains on the others",
                by="chosen",
            )


def _is_pair(fields: Fields) -> bool:
    return any(has_value(fields.values.get(name)) for name in REJECTED)


def _prompt_messages(fields: Fields, options: FormatOptions, context: RowContext) -> tuple[list[Message], str | None]:
    """What comes before the answer, and the column it stands in."""
    name = next((name for name in PROMPTS if has_value(fields.values.get(name))), None)
    if name is None:
        return [], None
    found = messages_in_column(fields, name, "user", context)
    if name == "instruction" and has_value(fields.values.get("input")):
        found = [Message("user", f"{fields.text('instruction')}{options.separator}{fields.text('input')}")]
    return found, name


def _answer_messages(fields: Fields, name: str, context: RowContext) -> list[Message]:
    """The messages of an answer; a transcript of Human and Assistant is one as well."""
    value = fields.values[name]
    if isinstance(value, str) and as_message_list(value) is None and _TRANSCRIPT.match(value):
        _, *pieces = _TRANSCRIPT.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        entries = [{"role": roles[speaker], "content": text.strip()} for speaker, text in pairs]
        return parse_messages(entries, fields.columns[name], context)
    return messages_in_column(fields, name, "assistant", context)


def _shared(fields: Fields, answer_messages: Sequence[Message], context: RowContext) -> int:
    """How many messages a chosen conversation shares with the rejected one; without that, all but its last answer."""
    for name in REJECTED:
        value = fields.values.get(name)
        if has_value(value) and (as_message_list(value) or isinstance(value, str)):
            other = _answer_messages(fields, name, RowContext(context.where, context.source, context.roles))
            pairs = zip(answer_messages, other, strict=False)
            count = next((at for at, (a, b) in enumerate(pairs) if (a.role, a.content) != (b.role, b.content)), None)
            return _last_answer(answer_messages) if count is None else count
    return _last_answer(answer_messages)


def _last_answer(messages: Sequence[Message]) -> int:
    """Number of messages before the last one of the assistant."""
    return max((at for at, message in enumerate(messages) if message.role == "assistant"), default=len(messages))


def _note_unused(fields: Fields, prompt_column: str | None, answer: str | None, context: RowContext) -> None:
    """Note the columns that hold something and were not needed; the rejected answers are left out on purpose."""
    used = {prompt_column, answer, *REJECTED, *LABELS, "system", "system_prompt", "tools"}
    used |= {"input"} if prompt_column == "instruction" else set()
    context.not_read.update(
        fields.columns[name] for name in READ if name not in used and has_value(fields.values.get(name))
    )


def _no_answer(fields: Fields, context: RowContext) -> RowError:
    there = format_list(name for name, value in fields.row.values.items() if has_value(value))
    return RowError(
        where=context.where,
        reason="no chosen answer",
        problem=f"no column holds a chosen answer and what it answers; the row has {there or 'nothing'}",
        fix="give every row chosen, or an answer with a label of true; data.on_bad_row=drop leaves such rows out",
    )
