"""Train = serve: the ids a server makes of a prompt are, id for id, what the model saw in training.

`prepare` keeps golden prompts of real rows with their ids. `check` gives the same messages to transformers' own tokenizer,
read from the directory a server would read, and compares.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_cli.chat.examples import ExampleMaker
from sft_cli.chat.spans import MARK_START
from sft_cli.data.types import Conversation
from sft_cli.errors import SftError


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt as a client sends it and the ids the model was trained behind."""

    where: str
    source: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    input_ids: list[int]


def golden(maker: ExampleMaker, conversation: Conversation) -> Golden | None:
    """The golden prompt before the last assistant turn.

    None for documents and for prompts that hold special-token strings, which servers differ on.
    """
    if conversation.text is not None:
        return None
    rendered = maker.renderer.render(conversation, unroll=True)[-1]
    prompt = rendered.text[: rendered.spans[-1].start]
    if MARK_START in prompt or not rendered.stops:
        return None
    messages, tools = maker.renderer.serving_input(conversation)
    return Golden(conversation.where, conversation.source, messages, tools, maker.encoder.ids(prompt))


def save(goldens: Sequence[Golden], file: Path) -> None:
    """Write golden prompts as JSON."""
    file.write_text(json.dumps([asdict(one) for one in goldens], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(file: Path) -> list[Golden]:
    """Read golden prompts."""
    return [Golden(**one) for one in json.loads(file.read_text(encoding="utf-8"))]


def check(tokenizer_directory: Path, goldens: Sequence[Golden]) -> int:
    """Compare every golden prompt with what transformers makes of it; the number compared.

    Raises:
        SftError: A server would send other ids than were trained.
    """
    from transformers import AutoTokenizer

    server = AutoTokenizer.from_pretrained(tokenizer_directory)
    for one in goldens:
        ids = server.apply_chat_template(
            one.messages, tools=one.tools, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        if ids != one.input_ids:
            at = next((i for i, (a, b) in enumerate(zip(ids, one.input_ids, strict=False)) if a != b), min(len(ids), len(one.input_ids)))
            raise SftError(
                where=f"{one.where} with the tokenizer in {tokenizer_directory}",
                problem=f"a server would send other ids than were trained: from id {at} on {ids[at : at + 5]} for"
                f" {one.input_ids[at : at + 5]}",
                fix="transformers rebuilds this tokenizer differently from its tokenizer.json: set tokenizer_class to"
                " PreTrainedTokenizerFast in tokenizer_config.json, or choose another model.tokenizer",
            )
    return len(goldens)
