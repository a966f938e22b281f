"""``/tokens``: the last exchange of a conversation as a training row, compared with what was sent and generated."""

from collections.abc import Iterator, Sequence
from typing import Any

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.server import first_difference
from sft_cli.eval.chat.target import ChatTarget
from sft_cli.prepare.model_template import load_tokenizer_and_template
from sft_cli.report.terminal import PLAIN_LEGEND, format_plain
from sft_cli.report.token_pieces import PreparedTokenReader
from sft_cli.types import Conversation, Message


def describe_exchange(
    target: ChatTarget,
    messages: Sequence[dict[str, Any]],
    earlier: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    sent: Sequence[int],
    generated: Sequence[int],
    stop_ids: Sequence[int],
) -> Iterator[str]:
    """Yield lines: counts, differences, the tokens with marks around those that carry loss, and the ids.

    Args:
        target: The model.
        messages: The whole conversation.
        earlier: Its messages before the last exchange.
        tools: The tools that the model is shown.
        sent: The ids of the last prompt.
        generated: The ids of the last answer.
        stop_ids: Tokens that end an answer.
    """
    tokenizer, template = load_tokenizer_and_template(target.config)
    builder = ExampleBuilder(tokenizer, template, target.config.data, 10**9)
    rows = [_conversation(part, tools) for part in (messages, earlier) if any(m["role"] == "assistant" for m in part)]
    row, *before = builder.build(rows)
    if row.problem is not None:
        yield f"tokens    a training row cannot have this conversation: {row.problem.problem}"
        yield f"sent      {list(sent)}"
        yield f"generated {list(generated)}"
        return
    example = row.examples[-1]
    ids, trained = list(example.input_ids), [weight > 0 for weight in example.weights]
    start = _common(ids, before[0].examples[-1].input_ids) if before and before[0].examples else 0
    count = sum(trained[start:])
    exchange = f"{len(ids) - start:,} in the last exchange, {count:,} of them with loss"
    yield f"tokens    {len(ids):,} in the conversation, {exchange}"
    yield f"prompt    {_compare(ids[: len(sent)], sent, 'the ids that were sent are those of a training row')}"
    answer = ids[len(sent) : len(sent) + len(generated)]
    yield f"answer    {_compare(answer, generated, 'the generated ids are those of a training row')}"
    stops = [name for name, id in tokenizer.control_tokens.items() if id in stop_ids]
    yield PLAIN_LEGEND
    yield format_plain(PreparedTokenReader(tokenizer, stops).pieces(ids[start:], trained[start:]))
    yield f"ids       {_marked(ids[start:], trained[start:])}"


def _conversation(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> Conversation:
    """Return messages as a conversation of a training row."""
    parts = tuple(Message(role=message["role"], content=message["content"]) for message in messages)
    return Conversation(messages=parts, where="the conversation", source="chat", tools=tuple(tools) or None)


def _common(ids: Sequence[int], earlier: Sequence[int]) -> int:
    """Return the number of ids that two conversations begin with."""
    pairs = enumerate(zip(ids, earlier, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(ids), len(earlier)))


def _compare(row: Sequence[int], other: Sequence[int], equal: str) -> str:
    """Return ``equal``, or where the ids of a row and others begin to differ."""
    if list(row) == list(other):
        return equal
    return f"differs from a training row {first_difference(other, row)}"


def _marked(ids: Sequence[int], trained: Sequence[bool]) -> str:
    """Return ids with marks around those that carry loss."""
    words = []
    for index, (id, has_loss) in enumerate(zip(ids, trained, strict=True)):
        begins = has_loss and not (index and trained[index - 1])
        ends = has_loss and not (index + 1 < len(ids) and trained[index + 1])
        words.append(f"{'⟦' if begins else ''}{id}{'⟧' if ends else ''}")
    return " ".join(words)
