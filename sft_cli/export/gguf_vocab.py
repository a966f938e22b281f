"""The vocabulary of a GGUF file, from tokenizer.json.

llama.cpp has its own tokenizers: byte-level BPE (``gpt2``), whose split into words has a name that it must know, and
BPE over text with byte fallback (``llama``), which merges by the scores of tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    rf"{LETTERS}|\p{{N}}{{1,3}}|{REST}": "llama-bpe",
    rf"{LETTERS}|\p{{N}}|{REST}": "qwen2",
    CASED: "tekken",
}
"""llama.cpp's name of the split into words, by the regular expression in tokenizer.json."""
SPACE = "▁"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary as GGUF stores it.

    Attributes:
        model: ``gpt2`` or ``llama``.
        pre: llama.cpp's name of the split into words.
        tokens: The text of each id.
        types: The ``TokenType`` of each id, as a number.
        scores: The score of each id (``llama`` only).
        merges: The merges in order (``gpt2`` only).
        space_prefix: Whether a space is put before a text (``llama`` only).
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    space_prefix: bool


def read_vocabulary(directory: Path, size: int, fix: str) -> Vocabulary:
    """Read the vocabulary of a model directory.

    Args:
        directory: The directory with tokenizer.json.
        size: Number of rows of the embedding; ids without a token become unused tokens.
        fix: The fix for a tokenizer that llama.cpp does not have.

    Raises:
        SftError: llama.cpp has no tokenizer that works like this one.
    """
    file = directory / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    model, added = data["model"], data["added_tokens"]
    if model.get("type", "BPE") != "BPE":
        raise _unknown(f"its model is {model['type']}, not BPE", fix)
    by_id = {id: text for text, id in model["vocab"].items()} | {token["id"]: token["content"] for token in added}
    if max(by_id) >= size:
        raise _unknown(f"it has ids up to {max(by_id)}, the embedding has {size} rows", fix)
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {token["id"]: token["special"] for token in added}
    if model.get("byte_fallback"):
        types = [_token_type(id, by_id, special, model.get("unk_token"), bytes_are_tokens=True) for id in range(size)]
        scores = _scores(tokens, merges)
        return Vocabulary("llama", "default", tokens, types, scores, [], _has_space_prefix(data, fix))
    types = [_token_type(id, by_id, special, None, bytes_are_tokens=False) for id in range(size)]
    return Vocabulary("gpt2", pre_tokenizer_name(data, fix), tokens, types, [], merges, False)


def pre_tokenizer_name(data: dict[str, Any], fix: str) -> str:
    """Return llama.cpp's name of the split into words that a parsed tokenizer.json does.

    Raises:
        SftError: llama.cpp has no name for it.
    """
    parts = _parts(data["pre_tokenizer"], "pretokenizers")
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True) and not parts[0]["add_prefix_space"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True) and parts[0]["behavior"] == "Isolated":
        name = SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        if name is not None:
            return name
    raise _unknown(
        f"it splits texts by {' and '.join(kinds) or 'nothing'} in a way that llama.cpp has no name for", fix
    )


def _parts(value: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the parts of a sequence in tokenizer.json, or the only part."""
    return [] if value is None else value[name] if value["type"] == "Sequence" else [value]


def _unknown(problem: str, fix: str) -> SftError:
    return SftError(where="--to gguf", problem=f"llama.cpp cannot do what this tokenizer does: {problem}", fix=fix)


def _token_type(
    id: int, by_id: dict[int, str], special: dict[int, bool], unknown: str | None, *, bytes_are_tokens: bool
) -> int:
    """Return the type of an id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""
    if id not in by_id:
        return 5
    text = by_id[id]
    if text == unknown:
        return 2
    if id in special:
        return 3 if special[id] else 4
    return 6 if bytes_are_tokens and len(text) == 6 and text.startswith("<0x") and text.endswith(">") else 1


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return scores in the order of the merges: a token that is merged earlier has a higher score."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else -float(len(merges)) for token in tokens]


def _has_space_prefix(data: dict[str, Any], fix: str) -> bool:
    """Return whether a space is put before a text; spaces must be written as ``▁``."""
    normalizers = _parts(data["normalizer"], "normalizers")
    prepended = any(part["type"] == "Prepend" and part["prepend"] == SPACE for part in normalizers)
    replaced = any(part["type"] == "Replace" and part["content"] == SPACE for part in normalizers)
    for part in _parts(data["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "Metaspace":
            replaced, prepended = True, prepended or part.get("prepend_scheme", "always") != "never"
    if not replaced:
        raise _unknown("its spaces are not written as ▁", fix)
    return prepended
