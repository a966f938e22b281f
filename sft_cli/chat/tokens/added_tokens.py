"""Add tokens to a tokenizer's vocabulary (``model.add_tokens``).

The extended tokenizer is saved in the cache under a name derived from its content. From then on its files are used like
those of any tokenizer: by the fingerprint, the prepared directory, the run and a server.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from sft_cli.chat.tokens.tokenizer import CONFIG_FILE, ChatTokenizer, load_tokenizer, publish_to_cache
from sft_cli.config.paths import cache_home
from sft_cli.errors import SftError, raise_all

LEGACY_FILE = "added_tokens.json"
"""File of ids by token, which older tokenizers have and older libraries read."""


def add_tokens(tokenizer: ChatTokenizer, tokens: Sequence[str]) -> ChatTokenizer:
    """Return the tokenizer with new tokens after its own, in this order; each is always encoded as a single id.

    A token written like ``<|this|>`` is a control token: a template may end an answer with it, answers are shown
    without it, and text from users is never encoded to it. Any other token is an ordinary token.

    Raises:
        SftError: A token is already in the vocabulary.
    """
    if not tokens:
        return tokenizer
    existing = [(text, tokenizer.backend.token_to_id(text)) for text in tokens]
    raise_all(
        [
            SftError(
                where="model.add_tokens",
                problem=f"{text!r} is already in the tokenizer, as token {id}",
                fix="remove it: it can be used and trained without being added",
            )
            for text, id in existing
            if id is not None
        ]
    )
    templates = [tokenizer.chat_template, dict(tokenizer.named_templates)]
    content = json.dumps([tokenizer.digests(), *templates, list(tokens)], sort_keys=True)
    directory = cache_home() / "tokenizers" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not directory.is_dir():
        _write(tokenizer, tokens, directory)
    extended = load_tokenizer(str(directory))
    ids = extended.encode_batch(list(tokens))
    assert ids == [[id] for id in added_ids(extended, tokens)], "an added token is a single id"
    return extended


def added_ids(tokenizer: ChatTokenizer, tokens: Sequence[str]) -> list[int]:
    """Return the ids of tokens that ``add_tokens`` added."""
    ids = [tokenizer.backend.token_to_id(text) for text in tokens]
    assert None not in ids, f"{tokenizer.directory} does not contain {tokens}"
    return [id for id in ids if id is not None]


def is_control_token(token: str) -> bool:
    """Return whether an added token is a control token."""
    return token.startswith("<|") and token.endswith("|>")


def _write(tokenizer: ChatTokenizer, tokens: Sequence[str], directory: Path) -> None:
    """Write the tokenizer with the new tokens atomically."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent))
    new = scratch / directory.name
    try:
        tokenizer.save(new)
        entries = _entries(new / "tokenizer.json", tokens)
        values = _read_json(new / "tokenizer.json")
        _write_json(new / "tokenizer.json", {**values, "added_tokens": [*values["added_tokens"], *entries.values()]})
        without_ids = {
            id: {name: value for name, value in entry.items() if name != "id"} for id, entry in entries.items()
        }
        config = _read_json(new / CONFIG_FILE)
        if "added_tokens_decoder" in config:
            _write_json(
                new / CONFIG_FILE, {**config, "added_tokens_decoder": {**config["added_tokens_decoder"], **without_ids}}
            )
        if (new / LEGACY_FILE).is_file():
            ids = {entry["content"]: entry["id"] for entry in entries.values()}
            _write_json(new / LEGACY_FILE, {**_read_json(new / LEGACY_FILE), **ids})
        publish_to_cache(new, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _entries(file: Path, tokens: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the entries of tokenizer.json for the new tokens, by the id that the library assigns."""
    backend = Tokenizer.from_file(str(file))
    before = backend.get_vocab_size(with_added_tokens=True)
    backend.add_tokens([AddedToken(text, normalized=False, special=is_control_token(text)) for text in tokens])
    assert backend.get_vocab_size(with_added_tokens=True) == before + len(tokens)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    entries = {}
    for text in tokens:
        id = backend.token_to_id(text)
        entries[str(id)] = {"id": id, "content": text, **plain, "special": is_control_token(text)}
    return entries


def _read_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def _write_json(file: Path, values: dict[str, Any]) -> None:
    """Write an object as JSON."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
