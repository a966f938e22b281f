"""Define the table of formats: their columns, an example row, and the function that builds the conversation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sft_cli.data.formats import (
    document_starts,
    messages,
    plugins,
    preferences,
    pretokenized,
    prompt_completion,
    text_columns,
    trees,
    xlam,
)
from sft_cli.data.formats.fields import Builder
from sft_cli.utils.entry_points import entry_label, entry_points_by_name

MESSAGE = ("review_result", "deleted", "rank", "lang", "labels", "message_tree_id", "tree_state")
"""Columns of an OpenAssistant message other than its text."""

SPEAKERS = ("role", "from", "question", "query", "prompt", "instruction", "input", "output", "answer", "completion")
"""Columns whose presence means that a text column is part of a conversation, not a document."""


@dataclass(frozen=True, slots=True)
class Format:
    """A row format.

    Attributes:
        description: A few words about it.
        required: Columns that every row must have.
        optional: Columns that a row may have; all others are not read.
        example: An example row.
        build: Builds the conversations from the fields; None for a format whose rows are assembled into trees.
        conflicting: Columns that exclude the format from detection.
        document: Whether a row is a document or token ids, so that the source can be replayed.
        tree: Whether the format reads the source's ``tree``.
        named: Whether the format is never detected, and must be configured by name.
        roles: Whether its messages have roles, so that the format reads the source's ``roles``.
    """

    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    example: Mapping[str, Any]
    build: Builder | None
    conflicting: tuple[str, ...] = ()
    document: bool = False
    tree: bool = False
    named: bool = False
    roles: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """All columns that the format reads."""
        return self.required + self.optional


def _document(column: str, conflicting: tuple[str, ...]) -> Format:
    """Return a format of plain documents in one column."""
    build = text_columns.document_format(column)
    return Format(
        "a plain document", (column,), (), {column: "It was a dark night."}, build, conflicting, document=True
    )


def _question_answer(
    question: str, answer: str, inputs: tuple[str, ...] = (), conflicting: tuple[str, ...] = ("context",)
) -> Format:
    """Return a format of a question column and an answer column."""
    description = "a question and its answer, texts or lists of messages"
    if inputs:
        description = "an instruction, an optional input, and the answer"
    example = {question: "Add the numbers.", **dict.fromkeys(inputs[:1], "2 and 3"), answer: "5"}
    build = text_columns.question_answer_format(question, answer, *inputs)
    optional = (*inputs, "system", "system_prompt", "history", "tools")
    return Format(description, (question, answer), optional, example, build, conflicting, roles=True)


_QUESTION, _ANSWER = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}
_OUTPUT = [{"type": "output_text", "text": "5"}]
_REPLIES = [{"text": "5", "role": "assistant", "rank": 0, "replies": []}]

FORMATS: Mapping[str, Format] = {
    "messages": Format(
        "OpenAI or Anthropic messages, with tool calls or parts of content",
        ("messages",),
        ("tools", "functions", "system", "system_prompt"),
        {"messages": [_QUESTION, _ANSWER]},
        messages.from_messages,
        roles=True,
    ),
    "sharegpt": Format(
        "ShareGPT turns, with function_call and observation",
        ("conversations",),
        ("tools", "system", "system_prompt"),
        {"conversations": [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5"}]},
        messages.from_sharegpt,
        roles=True,
    ),
    "conversation": Format(
        "a list of exchanges, or of messages",
        ("conversation",),
        ("tools", "system", "system_prompt"),
        {"conversation": [{"human": "2 + 3?", "assistant": "5"}]},
        text_columns.from_exchanges,
        roles=True,
    ),
    "tree": Format(
        "an OpenAssistant tree, its messages nested below prompt",
        ("prompt", "message_tree_id"),
        ("tree_state",),
        {"message_tree_id": "a", "prompt": {"text": "2 + 3?", "role": "prompter", "replies": _REPLIES}},
        trees.from_nested_tree,
        tree=True,
        roles=True,
    ),
    "tree_root": Format(
        "an OpenAssistant tree, the row being its first message",
        ("message_id", "text", "role", "replies"),
        MESSAGE,
        {"message_id": "a", "text": "2 + 3?", "role": "prompter", "replies": _REPLIES},
        trees.from_tree_root,
        tree=True,
        roles=True,
    ),
    "tree_messages": Format(
        "one OpenAssistant message in a row, gathered into trees",
        ("message_id", "parent_id", "text", "role"),
        MESSAGE,
        {"message_id": "b", "parent_id": "a", "text": "5", "role": "assistant", "rank": 0},
        None,
        tree=True,
        roles=True,
    ),
    "xlam": Format(
        "a query and the tool calls that answer it (xLAM)",
        ("query", "answers", "tools"),
        ("system", "system_prompt"),
        {
            "query": "2 + 3?",
            "answers": '[{"name": "add", "arguments": {"a": 2, "b": 3}}]',
            "tools": '[{"name": "add", "parameters": {"a": {"type": "int"}, "b": {"type": "int"}}}]',
        },
        xlam.from_xlam,
    ),
    "alpaca": _question_answer("instruction", "output", ("input",)),
    "instruction_response": _question_answer("instruction", "response", ("input", "context"), conflicting=()),
    "prompt_completion": replace(
        _question_answer("prompt", "completion"), example={"prompt": [_QUESTION], "completion": [_ANSWER]}
    ),
    "prompt_response": _question_answer("prompt", "response"),
    "query_response": _question_answer("query", "response"),
    "question_response": _question_answer("question", "response"),
    "problem_solution": _question_answer("problem", "solution"),
    "question_answer": _question_answer("question", "answer", conflicting=("context", "choices", "options", "passage")),
    "user_assistant": _question_answer("user", "assistant"),
    "responses": Format(
        "input and output of OpenAI's Responses: texts, or lists of items",
        ("input", "output"),
        ("instructions", "system", "tools"),
        {"input": "2 + 3?", "output": [{"type": "message", "role": "assistant", "content": _OUTPUT}]},
        prompt_completion.from_responses,
        conflicting=(*SPEAKERS[2:6], "context", "problem", "choices", "options"),
        roles=True,
    ),
    "chosen": Format(
        "the good answers of rows that judge them: chosen (not rejected), or those with a true label",
        (),
        preferences.READ,
        {"prompt": "2 + 3?", "chosen": "5", "rejected": "6"},
        preferences.from_preferences,
        named=True,
        roles=True,
    ),
    "tokens": Format(
        "token ids with labels (-100: no loss) or a mask; documents packed into a row are separated",
        ("input_ids",),
        ("labels", *pretokenized.MASKS, "attention_mask", *document_starts.COLUMNS),
        {"input_ids": [1, 50, 51, 2], "labels": [-100, -100, 51, 2]},
        pretokenized.from_token_ids,
        document=True,
    ),
    "text": _document("text", ("role",)),
    "lines": replace(
        _document("text", ()),
        description="a text file with one document a line (else a file is one document)",
        named=True,
    ),
    "rendered": Format(
        "a conversation that the chat template has rendered already; its answers are trained",
        ("text",),
        (),
        {"text": "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n"},
        text_columns.from_rendered_text,
        named=True,
    ),
    "content": _document("content", SPEAKERS),
    "document": _document("document", (*SPEAKERS, "summary", "response")),
    "response": _document("response", (*SPEAKERS, "context", "chosen", "rejected", "user", "system")),
}
"""The formats, in the order in which ``auto`` tries them: a file with messages and rendered text is messages."""


_OWN_FORMATS = """custom: Jinja over the columns of a row, for the fields of any format above
    format:
      messages: "{{ [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': steps | join(' ')}] }}"
or a function of an installed package, by an entry point of the group sft_cli.formats"""


def describe_formats() -> str:
    """Return a text about every format: its description, columns and an example row; then those of packages."""
    blocks = []
    for name, row_format in FORMATS.items():
        lines = [f"{name}: {row_format.description}"]
        if row_format.required:
            lines.append(f"    columns: {', '.join(row_format.required)}")
        if row_format.optional:
            lines.append(f"    may have: {', '.join(row_format.optional)}")
        lines.append(f"    example: {json.dumps(row_format.example, ensure_ascii=False)}")
        blocks.append("\n".join(lines))
    for points in entry_points_by_name(plugins.GROUP).values():
        blocks += [f"{entry_label(point)}: from an installed package, {point.value}" for point in points]
    return "\n\n".join([*blocks, _OWN_FORMATS])
