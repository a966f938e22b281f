"""Texts of a run with the ids that the model was trained on, for checking other tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sft_cli.chat.masks.parity import GoldenPrompt, load_golden_prompts
from sft_cli.run_dir import RunDir

STRESS = (
    "It's 12345.678 o'clock, they'll say: DON'T!",
    "  two spaces,\ttab,\n\n\nthree lines \n and a space",
    "naïve café – “quotes” … 東京は晴れ 안녕하세요 Привет مرحبا",
    "🙂👍🏽 x=f(1)[2]{3};//comment\r\n#tag @name $1,000.00",
)
"""Texts that tokenizers split differently."""


@dataclass(frozen=True, slots=True)
class TextCase:
    """A text and the ids of the trained tokenizer.

    Attributes:
        where: The place of its row, or a name.
        text: The text.
        ids: The ids.
    """

    where: str
    text: str
    ids: list[int]


def plain_tokenizer(directory: Path) -> Tokenizer:
    """Return the tokenizer of tokenizer.json, without padding and truncation."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def run_cases(run: RunDir) -> list[TextCase]:
    """Return the golden prompts and rows of a run, as the text of their ids, and the rows for comparing models."""
    tokenizer = plain_tokenizer(run.tokenizer)
    golden = load_golden_prompts(run.golden) if run.golden.is_file() else []
    rows = [(prompt.where, ids) for prompt in golden for ids in (prompt.input_ids, prompt.row_ids) if ids]
    if run.probes.is_file():
        rows += [(entry["where"], entry["input_ids"]) for entry in run.read_json(run.probes)]
    return text_cases(tokenizer, rows)


def text_cases(tokenizer: Tokenizer, rows: Sequence[tuple[str, Sequence[int]]]) -> list[TextCase]:
    """Return rows as cases: their decoded text and the ids that it is encoded to."""
    texts = tokenizer.decode_batch([list(ids) for _, ids in rows], skip_special_tokens=False)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return [TextCase(where, text, ids) for (where, _), text, ids in zip(rows, texts, encoded, strict=True)]


def stress_cases(directory: Path) -> list[TextCase]:
    """Return the stress texts with the ids of a directory's tokenizer.json."""
    tokenizer = plain_tokenizer(directory)
    return [TextCase(text[:12], text, tokenizer.encode(text, add_special_tokens=False).ids) for text in STRESS]


def prompt_ids(run: RunDir, number: int) -> list[list[int]]:
    """Return the ids of up to ``number`` different prompts: golden ones, then those of the comparison rows."""
    golden = load_golden_prompts(run.golden) if run.golden.is_file() else []
    prompts = [prompt.input_ids for prompt in golden]
    for entry in run.read_json(run.probes) if run.probes.is_file() else ():
        first = next((at for at, label in enumerate(entry["labels"]) if label != -100), 0)
        prompts.append(entry["input_ids"][:first])
    unique = {tuple(ids): list(ids) for ids in prompts if ids}
    return list(unique.values())[:number]


def golden_request(prompt: GoldenPrompt) -> dict[str, Any]:
    """Return a golden prompt as the arguments of ``apply_chat_template``."""
    return {"conversation": prompt.messages, "tools": prompt.tools, **prompt.variables}
