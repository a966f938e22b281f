"""A tokenizer for data preparation: ids, special tokens and chat template, without importing torch.

transformers imports torch, but `prepare` must run on a login node within seconds. So the files that a server reads are
read directly, and chat/masks/parity.py compares the result with transformers before a model is trained.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from sft_cli.chat.template import named_templates
from sft_cli.chat.template.named_templates import DEFAULT, TEMPLATE_FILE, TOOL_USE
from sft_cli.config.model_files.not_found import suggest_directory, suggest_hub_fix
from sft_cli.config.paths import cache_home, resolve
from sft_cli.errors import SftError
from sft_cli.utils.atomic import apply_umask

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE),
    *("tokenizer.model", "vocab.json", "merges.txt"),
)
REASONING_TAGS = ("<think>", "</think>")
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer read from its files.

    Attributes:
        directory: The directory of its files.
        backend: The tokenizer.json, without padding or truncation.
        special_tokens: ``{"bos_token": "<s>", ...}``, which templates may read.
        chat_template: The Jinja source, or None.
        named_templates: The sources of its other templates by name (``tool_use``, ``rag``).
        content_tokens: Special tokens that are single ids inside an assistant's text (content_tokens.py).
    """

    directory: Path
    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    chat_template: str | None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    content_tokens: tuple[str, ...] = ()

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Special-token strings and their ids; text of a user must never be encoded to them.

        Reasoning tags are excluded even if the tokenizer lists them: assistants write them, and templates read them.
        """
        added = self.backend.get_added_tokens_decoder()
        strings = {t.content: id for id, t in added.items() if t.special and t.content not in REASONING_TAGS}
        for text in self.special_tokens.values():
            id = self.backend.token_to_id(text)
            if id is not None:
                strings[text] = id
        return strings

    @cached_property
    def adds_bos(self) -> bool:
        """Whether plain text is encoded with a leading bos token."""
        bos = self.special_tokens.get("bos_token")
        ids = self.backend.encode("a").ids
        return bos in self.control_tokens and ids[:1] == [self.control_tokens[bos]]

    def with_template(self, chat_template: str, named: Mapping[str, str] | None = None) -> "ChatTokenizer":
        """Return the same tokenizer with other chat templates: the default one, and those by name."""
        return replace(self, chat_template=chat_template, named_templates=named or {})

    def template_for(self, tools: Sequence[Any] | None) -> str | None:
        """Return the template that transformers uses for a conversation with or without tools, or None."""
        return self.named_templates.get(TOOL_USE, self.chat_template) if tools else self.chat_template

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; special-token strings become special tokens, but no others are added."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_as_text(self, text: str) -> list[int]:
        """Return the ids of a text in which special-token strings are ordinary characters."""
        normalizer, pre_tokenizer = self.backend.normalizer, self.backend.pre_tokenizer
        normalized = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalized)] if pre_tokenizer else [normalized]
        return [token.id for word in words for token in self.backend.model.tokenize(word)]

    def decode_batch(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each list of ids, special tokens included."""
        return self.backend.decode_batch([list(row) for row in ids], skip_special_tokens=False)

    def normalize(self, text: str) -> str:
        """Return the text after the tokenizer's own normalization (NFC; SentencePiece's leading space)."""
        normalizer = self.backend.normalizer
        normalized = normalizer.normalize_str(text) if normalizer else text
        return normalized.replace("\u2581", " ")

    def files(self) -> list[Path]:
        """Return the tokenizer's files, without those of the chat template."""
        return [
            self.directory / name
            for name in TOKENIZER_FILES
            if name != TEMPLATE_FILE and (self.directory / name).exists()
        ]

    def digests(self) -> dict[str, str]:
        """Return SHA-256 digests by file name, without the chat template: the same before and after ``save``."""
        hashes = {}
        for file in self.files():
            content = file.read_bytes()
            if file.name == CONFIG_FILE:
                content = json.dumps(_without_template(file), sort_keys=True).encode()
            hashes[file.name] = hashlib.sha256(content).hexdigest()
        return hashes

    def save(self, directory: Path) -> None:
        """Copy the tokenizer's files with this chat template, for use by a server."""
        directory.mkdir(parents=True)
        for file in self.files():
            shutil.copy(file, directory / file.name)
        config = _without_template(directory / CONFIG_FILE)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        if self.chat_template is not None:
            (directory / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")
        named_templates.write_named_templates(self.named_templates, directory)


def load_tokenizer(path: str, revision: str | None = None, key: str = "model.tokenizer") -> ChatTokenizer:
    """Read a tokenizer from a directory or a hub id; ``key`` is the setting with the path, for errors.

    Raises:
        SftError: There is no tokenizer, or it cannot be read.
    """
    directory = _find_directory(path, revision, key)
    file = directory / "tokenizer.json"
    if not file.exists():
        directory = _convert(directory, f"{key}={path}")
        file = directory / "tokenizer.json"
    try:
        backend = _parse(file.read_bytes())
    except Exception as error:  # the Rust library raises bare Exception
        raise SftError(
            where=str(file), problem=f"not a readable tokenizer: {error}", fix="download or copy the file again"
        ) from error
    config = _read_json(directory / CONFIG_FILE)
    templates = named_templates.read_named_templates(directory, config)
    return ChatTokenizer(
        directory=directory,
        backend=backend,
        special_tokens=_special_tokens({**_read_json(directory / "special_tokens_map.json"), **config}),
        chat_template=templates.pop(DEFAULT, None),
        named_templates=templates,
    )


@lru_cache(maxsize=1)
def _parse(content: bytes) -> tokenizers.Tokenizer:
    """Parse a tokenizer.json; the last result is cached, because parsing takes half a second."""
    backend = tokenizers.Tokenizer.from_buffer(content)
    backend.no_padding()
    backend.no_truncation()
    return backend


def _find_directory(path: str, revision: str | None, key: str) -> Path:
    """Return the local directory with the tokenizer's files; a hub id is downloaded."""
    local = Path(resolve(path))
    if local.is_dir():
        if not any((local / name).exists() for name in TOKENIZER_FILES):
            raise SftError(
                where=f"{key}={path}",
                problem="the directory has no tokenizer (no tokenizer.json)",
                fix="name the directory that has one: model.tokenizer=DIR",
            )
        return local
    if path.startswith((".", "/", "~", "builtin:")) or path.count("/") > 1:
        raise SftError(where=f"{key}={path}", problem="no such directory", fix=suggest_directory(path, key))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # config.json has the context window of the model, generation_config.json its stop tokens.
    patterns = [*TOKENIZER_FILES, f"{named_templates.FOLDER}/*", "config.json", "generation_config.json"]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SftError(
            where=f"{key}={path}",
            problem=f"neither a local directory nor reachable on the hub: {str(error).splitlines()[0]}",
            fix=suggest_hub_fix(path, key),
        ) from error


def _convert(directory: Path, where: str) -> Path:
    """Convert a tokenizer without a tokenizer.json (SentencePiece, vocab + merges) with transformers, and cache it.

    Returns:
        The directory of the converted tokenizer in the cache.
    """
    from transformers import AutoTokenizer

    present = [directory / name for name in TOKENIZER_FILES if (directory / name).exists()]
    content = b"".join(file.read_bytes() for file in (*present, *named_templates.named_template_files(directory)))
    converted = cache_home() / "tokenizers" / hashlib.sha256(content).hexdigest()[:16]
    if converted.is_dir():
        return converted
    converted.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=converted.parent))
    try:
        AutoTokenizer.from_pretrained(directory, trust_remote_code=False).save_pretrained(new)
    except (ValueError, OSError, ImportError) as error:
        raise SftError(
            where=where,
            problem=f"no tokenizer.json, and the tokenizer cannot be converted: {str(error).splitlines()[0]}",
            fix="name another tokenizer: model.tokenizer=DIR",
        ) from error
    else:
        apply_umask(new)
        publish_to_cache(new, converted)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return converted


def publish_to_cache(new: Path, converted: Path) -> None:
    """Move a tokenizer into the cache, unless another process has added the same one in the meantime."""
    try:
        new.rename(converted)
    except OSError:
        if not (converted / "tokenizer.json").is_file():
            raise


def _read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _without_template(file: Path) -> dict[str, Any]:
    """Return a tokenizer's configuration without a chat template; empty if there is no file."""
    return {key: value for key, value in _read_json(file).items() if key != "chat_template"}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by name; a token is a string or ``{"content": string}``."""
    tokens = {}
    for name in SPECIAL_NAMES:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            tokens[name] = text
    return tokens
