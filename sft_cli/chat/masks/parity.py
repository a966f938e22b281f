"""Parity with serving: a server encodes a prompt to the same ids as training.

`prepare` saves golden prompts of real rows with their ids, and the ids of the whole rows, for every kind of row.
`check_parity` passes the same messages and texts to transformers' own tokenizer, as a server loads it, and compares the
ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sft_cli.chat.encode import Encoder
from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.template import server as servers
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.errors import SftError
from sft_cli.types import Conversation

REASONING_MESSAGE_KEYS = {"reasoning", "reasoning_content", "thinking"}
"""Keys of a message that contain its reasoning."""


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A prompt as a client sends it, and the prompt ids that the model was trained with.

    Attributes:
        where: The place of the row.
        source: The name of its source.
        messages: The messages that a client sends.
        tools: The tool schemas that a client sends, or None.
        input_ids: The ids of the prompt in training.
        now: Time of rendering in ISO 8601, for templates that write the date.
        variables: Template variables that a client sends, such as ``{"enable_thinking": False}``.
        row_ids: The ids of the whole row in training.
    """

    where: str
    source: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    input_ids: list[int]
    now: str
    variables: Mapping[str, str | bool] = field(default_factory=dict)
    row_ids: list[int] = field(default_factory=list)


def conversation_kind(conversation: Conversation) -> tuple[bool, ...]:
    """Return the features of a row that determine the branches of a template that render it."""
    messages = conversation.messages
    roles = [message.role for message in messages]
    return (
        bool(conversation.tools),
        "tool" in roles,
        roles.count("assistant") > 1,
        "system" in roles,
        any("tool_calls" in message.extra for message in messages),
        any("</think>" in message.content or message.extra.keys() & REASONING_MESSAGE_KEYS for message in messages),
    )


def golden_prompt(builder: ExampleBuilder, conversation: Conversation) -> GoldenPrompt | None:
    """Return the golden prompt before the last trained turn.

    Return None for documents and token ids, for answers without a prompt, and for prompts with special-token strings,
    which servers encode differently.
    """
    if (conversation.text is not None and not conversation.rendered) or conversation.tokens is not None:
        return None
    normalized = builder.normalize(conversation)
    prompt, messages, tools = builder.span_finder_for(normalized).serving_prompt(normalized)
    if MARK_START in prompt or not messages:
        return None
    template = builder.span_finder.template
    ids, variables = builder.encoder.encode_text(prompt), dict(template.variables)
    return GoldenPrompt(
        conversation.where, conversation.source, messages, tools, ids, template.now.isoformat(), variables
    )


def save_golden_prompts(golden_prompts: Sequence[GoldenPrompt], file: Path) -> None:
    """Write golden prompts as JSON."""
    file.write_text(
        json.dumps([asdict(golden) for golden in golden_prompts], ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def load_golden_prompts(file: Path) -> list[GoldenPrompt]:
    """Read golden prompts."""
    return [GoldenPrompt(**golden) for golden in json.loads(file.read_text(encoding="utf-8"))]


def check_parity(
    tokenizer_directory: Path,
    golden_prompts: Sequence[GoldenPrompt],
    architecture: Any = None,
    *,
    trust_remote_code: bool = False,
) -> int:
    """Check that transformers encodes every golden prompt, and its whole row, to the trained ids.

    Args:
        tokenizer_directory: The tokenizer directory that a server reads.
        golden_prompts: The prompts.
        architecture: The model's transformers config, if known; see ``server.load_server_tokenizer``.
        trust_remote_code: Whether a tokenizer may run code from its directory.

    Returns:
        The number of prompts compared.

    Raises:
        SftError: A server would send ids that differ from the trained ones.
    """
    server = servers.load_server_tokenizer(tokenizer_directory, architecture, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(str(tokenizer_directory))
    for golden in golden_prompts:
        _check_render_budget(tokenizer, golden)
        ids = server.apply_chat_template(
            golden.messages,
            tools=golden.tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **golden.variables,
        )
        writes_date = "strftime_now" in (tokenizer.template_for(golden.tools) or "")
        trained = _ids_with_current_date(tokenizer, golden) if writes_date else golden.input_ids
        if ids != trained:
            raise SftError(
                where=f"{golden.where} with the tokenizer in {tokenizer_directory}",
                problem="a server would send ids that differ from the trained ones: "
                + servers.first_difference(ids, trained),
                fix=servers.SERVER_FIX,
            )
    rows = [(golden.where, golden.row_ids) for golden in golden_prompts if golden.row_ids]
    servers.check_row_ids(server, tokenizer_directory / "tokenizer.json", rows)
    return len(golden_prompts)


def _check_render_budget(tokenizer: ChatTokenizer, golden: GoldenPrompt) -> None:
    """Render a golden prompt with limits on time and size first, because transformers renders without limits."""
    template = ChatTemplate(
        tokenizer.template_for(golden.tools) or "",
        tokenizer.special_tokens,
        "the tokenizer's own template",
        variables=golden.variables,
    )
    try:
        template.render(golden.messages, golden.tools, prompt=True)
    except RenderError as error:
        where = f"{golden.where} with the tokenizer in {tokenizer.directory}"
        raise SftError(where=where, problem=str(error), fix="template=chatml, or template.path=FILE.jinja") from error


def _ids_with_current_date(tokenizer: ChatTokenizer, golden: GoldenPrompt) -> list[int]:
    """Return the ids of a golden prompt rendered with today's date, if only the date changes them."""
    source = tokenizer.template_for(golden.tools)
    assert source is not None
    ids_then, ids_today = (
        Encoder(tokenizer).encode_text(
            ChatTemplate(source, tokenizer.special_tokens, "the tokenizer's own", now, golden.variables).render(
                golden.messages, golden.tools, prompt=True
            )
        )
        for now in (datetime.fromisoformat(golden.now), datetime.now())
    )
    return ids_today if ids_then == golden.input_ids else golden.input_ids
