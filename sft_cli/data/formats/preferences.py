"""Convert rows that judge answers (chosen and rejected, or a label) to conversations with the good answers."""

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
"""Columns that mark whether the answer of a row is good (TRL and ms-swift; LLaMA-Factory)."""
ANSWERS = ("completion", "response", "output", "answer")
PROMPTS = ("prompt", "instruction", "question", "query", "conversations", "messages")
"""Columns of the prompt, in the order in which they are tried."""
LISTS = ("conversations", "messages")
READ = (*CHOSEN, *REJECTED, *LABELS, *ANSWERS, *PROMPTS, "input", "system", "system_prompt", "tools")

_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_LABEL_VALUES = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}


def refuse_preferences(
    columns: Collection[str], named: Collection[str], source: str, ignored: Sequence[str] = ()
) -> None:
    """Refuse to detect a format for rows that judge answers; the fix names the format that keeps the good ones.

    Args:
        columns: Columns of the first row.
        named: Columns that the source's ``tags``, ``scores`` or ``columns`` name.
        source: Name of the source, for errors.
        ignored: Columns that the source ignores.
    """
    present = {name.lower(): name for name in columns if name not in named}
    pairs = [present[name] for name in (*CHOSEN, *REJECTED) if name in present]
    labels = [present[name] for name in LABELS if name in present]
    answered = not {name.lower() for name in columns}.isdisjoint((*ANSWERS, *LISTS))
    if not pairs and not (labels and answered):
        return
    key = f"data.mix.{source}"
    problem = f"the columns {format_list(pairs or labels)} judge the answers, which format=auto does not handle"
    fix = f"{key}.format=chosen trains on the chosen answers only"
    if not pairs:
        problem = f"the column {labels[0]} seems to mark good answers, which format=auto does not handle"
        train_all = format_override(f"{key}.ignore", [*ignored, labels[0]])
        fix = f"{key}.format=chosen trains on rows whose {labels[0]} is true; {train_all} trains on every row"
    raise SftError(where=f"{key}.format", problem=problem, fix=fix)


def from_preferences(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversation with the chosen answer, the only message that carries loss.

    Raises:
        RowExcluded: The row's label is false.
        RowError: The row has no chosen answer.
    """
    context = RowContext.from_fields(fields, options)
    fields = parse_message_columns(fields, (*CHOSEN, *REJECTED, *PROMPTS, *ANSWERS))
    _check_label(fields, context)
    prompt_messages, prompt_column = _prompt_messages(fields, options, context)
    names = CHOSEN if _is_pair(fields) or prompt_column in LISTS else (*CHOSEN, *ANSWERS)
    answer = next((name for name in names if has_value(fields.values.get(name))), None)
    if answer is not None:
        messages, start = _join_answer(fields, prompt_messages, _answer_messages(fields, answer, context), context)
    else:
        messages, start = prompt_messages, _last_answer(prompt_messages)
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
    fields: Fields, prompt_messages: list[Message], answer_messages: list[Message], context: RowContext
) -> tuple[list[Message], int]:
    """Return the whole conversation, and the number of its messages before the chosen answer.

    Args:
        fields: The row.
        prompt_messages: Messages of the prompt.
        answer_messages: Messages of the chosen column.
        context: The row's context.

    Raises:
        RowError: The chosen conversation begins with another question than the row's.
    """
    if all(message.role != "user" for message in answer_messages):
        return [*prompt_messages, *answer_messages], len(prompt_messages)
    texts = [message.content.strip() for message in answer_messages]
    if all(message.content.strip() in texts for message in prompt_messages):
        return answer_messages, _shared(fields, answer_messages, context)
    if [message.role for message in answer_messages] and answer_messages[0].role in ("user", "system"):
        raise RowError(
            where=context.where,
            reason="two questions",
            problem="the chosen conversation begins with another question than the row's own",
            fix="remove one of the two columns",
        )
    return [*prompt_messages, *answer_messages], len(prompt_messages)


def _check_label(fields: Fields, context: RowContext) -> None:
    """Check that the row marks its answer, and raise ``RowExcluded`` if a label marks it as bad."""
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
                problem=f"field {fields.columns[name]!r} marks the answer as bad",
                fix="no change is needed: data.mix.NAME.format=chosen counts such rows and trains on the others",
                by="chosen",
            )


def _is_pair(fields: Fields) -> bool:
    """Return whether a row has a rejected answer."""
    return any(has_value(fields.values.get(name)) for name in REJECTED)


def _prompt_messages(fields: Fields, options: FormatOptions, context: RowContext) -> tuple[list[Message], str | None]:
    """Return the messages before the answer, and the column that holds them."""
    name = next((name for name in PROMPTS if has_value(fields.values.get(name))), None)
    if name is None:
        return [], None
    messages = messages_in_column(fields, name, "user", context)
    if name == "instruction" and has_value(fields.values.get("input")):
        messages = [Message("user", f"{fields.text('instruction')}{options.separator}{fields.text('input')}")]
    return messages, name


def _answer_messages(fields: Fields, name: str, context: RowContext) -> list[Message]:
    """Return the messages of an answer, which may be a transcript of Human and Assistant."""
    value = fields.values[name]
    if isinstance(value, str) and as_message_list(value) is None and _TRANSCRIPT.match(value):
        _, *pieces = _TRANSCRIPT.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        entries = [{"role": roles[speaker], "content": text.strip()} for speaker, text in pairs]
        return parse_messages(entries, fields.columns[name], context)
    return messages_in_column(fields, name, "assistant", context)


def _shared(fields: Fields, answer_messages: Sequence[Message], context: RowContext) -> int:
    """Return the number of leading messages that the chosen and the rejected conversation share.

    Without a rejected conversation, all messages before the last answer count as shared.
    """
    for name in REJECTED:
        value = fields.values.get(name)
        if has_value(value) and (as_message_list(value) or isinstance(value, str)):
            other = _answer_messages(fields, name, RowContext(context.where, context.source, context.roles))
            pairs = zip(answer_messages, other, strict=False)
            count = next(
                (index for index, (a, b) in enumerate(pairs) if (a.role, a.content) != (b.role, b.content)), None
            )
            return _last_answer(answer_messages) if count is None else count
    return _last_answer(answer_messages)


def _last_answer(messages: Sequence[Message]) -> int:
    """Return the number of messages before the last one of the assistant."""
    return max((index for index, message in enumerate(messages) if message.role == "assistant"), default=len(messages))


def _note_unused(fields: Fields, prompt_column: str | None, answer: str | None, context: RowContext) -> None:
    """Note the columns with a value that were not used, other than the rejected answers."""
    used = {prompt_column, answer, *REJECTED, *LABELS, "system", "system_prompt", "tools"}
    used |= {"input"} if prompt_column == "instruction" else set()
    context.not_read.update(
        fields.columns[name] for name in READ if name not in used and has_value(fields.values.get(name))
    )


def _no_answer(fields: Fields, context: RowContext) -> RowError:
    """Return the error for a row without a chosen answer."""
    available = format_list(name for name, value in fields.row.values.items() if has_value(value))
    return RowError(
        where=context.where,
        reason="no chosen answer",
        problem=f"the row has no prompt with a chosen answer; it has {available or 'nothing'}",
        fix="add the column chosen, or a label of true to the answer",
    )
