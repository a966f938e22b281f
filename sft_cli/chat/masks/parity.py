"""Train = serve: the ids a server makes of a prompt are, id for id, what the model saw in training.

`prepare` keeps golden prompts of real rows with their ids, and the ids of the whole rows, of every kind that occurs.
`check` gives the same messages and texts to transformers' own tokenizer, as a server would load it, and compares.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sft_cli.chat.encode import Encoder
from sft_cli.chat.examples import ExampleMaker
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.template import server as servers
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.errors import SftError
from sft_cli.types import Conversation

REASONING = {"reasoning", "reasoning_content", "thinking"}
"""Keys of a message that hold its reasoning."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt as a client sends it and the ids the model was trained behind.

    Attributes:
        now: When it was rendered, as ISO 8601, for templates that write the date.
        variables: What a client sends beside messages and tools, such as ``{"enable_thinking": False}``.
        row_ids: Ids of the whole row, as it is trained.
    """

    where: str
    source: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    input_ids: list[int]
    now: str
    variables: Mapping[str, str | bool] = field(default_factory=dict)
    row_ids: list[int] = field(default_factory=list)


def kind(conversation: Conversation) -> tuple[bool, ...]:
    """What decides which parts of a template a row goes through; rows of one kind go through the same."""
    messages = conversation.messages
    roles = [message.role for message in messages]
    return (
        bool(conversation.tools),
        "tool" in roles,
        roles.count("assistant") > 1,
        "system" in roles,
        any("tool_calls" in message.extra for message in messages),
        any("</think>" in message.content or message.extra.keys() & REASONING for message in messages),
    )


def golden(maker: ExampleMaker, conversation: Conversation) -> Golden | None:
    """The golden prompt before the last trained turn.

    None for documents and token ids, for answers to nothing, and for prompts with special-token strings, which servers
    differ on.
    """
    if (conversation.text is not None and not conversation.rendered) or conversation.tokens is not None:
        return None
    shaped = maker.shaped(conversation)
    prompt, messages, tools = maker.renderer_of(shaped).served(shaped)
    if MARK_START in prompt or not messages:
        return None
    template = maker.renderer.template
    ids, variables = maker.encoder.ids(prompt), dict(template.variables)
    return Golden(conversation.where, conversation.source, messages, tools, ids, template.now.isoformat(), variables)


def save(goldens: Sequence[Golden], file: Path) -> None:
    """Write golden prompts as JSON."""
    file.write_text(json.dumps([asdict(one) for one in goldens], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(file: Path) -> list[Golden]:
    """Read golden prompts."""
    return [Golden(**one) for one in json.loads(file.read_text(encoding="utf-8"))]


def check(
    tokenizer_directory: Path, goldens: Sequence[Golden], architecture: Any = None, *, trust_remote_code: bool = False
) -> int:
    """Compare every golden prompt and its whole row with what transformers makes of them; the number compared.

    Args:
        tokenizer_directory: What a server reads.
        goldens: The prompts.
        architecture: The model's transformers config, if known; see ``server.load``.
        trust_remote_code: Whether a tokenizer may run code that lies beside it.

    Raises:
        SftError: A server would send other ids than were trained.
    """
    server = servers.load(tokenizer_directory, architecture, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(str(tokenizer_directory))
    for one in goldens:
        _affordable(tokenizer, one)
        ids = server.apply_chat_template(
            one.messages,
            tools=one.tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **one.variables,
        )
        dated = "strftime_now" in (tokenizer.template_for(one.tools) or "")
        trained = _as_of_today(tokenizer, one) if dated else one.input_ids
        if ids != trained:
            raise SftError(
                where=f"{one.where} with the tokenizer in {tokenizer_directory}",
                problem=f"a server would send other ids than were trained: {servers.first_difference(ids, trained)}",
                fix=servers.FIX,
            )
    rows = [(one.where, one.row_ids) for one in goldens if one.row_ids]
    servers.refuse_other_ids(server, tokenizer_directory / "tokenizer.json", rows)
    return len(goldens)


def _affordable(tokenizer: ChatTokenizer, one: Golden) -> None:
    """Render a golden prompt within a budget first: transformers renders without any."""
    template = ChatTemplate(
        tokenizer.template_for(one.tools) or "",
        tokenizer.special_tokens,
        "the tokenizer's own template",
        variables=one.variables,
    )
    try:
        template.render(one.messages, one.tools, prompt=True)
    except TemplateRefusal as error:
        where = f"{one.where} with the tokenizer in {tokenizer.directory}"
        raise SftError(where=where, problem=str(error), fix="choose another template=") from error


def _as_of_today(tokenizer: ChatTokenizer, one: Golden) -> list[int]:
    """The ids of a golden prompt with today's date in place of that of preparation, if nothing else changes them."""
    source = tokenizer.template_for(one.tools)
    assert source is not None
    then, today = (
        Encoder(tokenizer).ids(
            ChatTemplate(source, tokenizer.special_tokens, "the tokenizer's own", now, one.variables).render(
                one.messages, one.tools, prompt=True
            )
        )
        for now in (datetime.fromisoformat(one.now), datetime.now())
    )
    return today if then == one.input_ids else one.input_ids
