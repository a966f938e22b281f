"""Digests of values, files and code."""

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any


def json_digest(value: Any) -> str:
    """Return the SHA-256 of plain values as canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of the source of modules and packages of ``sft_cli``, 16 hexadecimal digits."""
    files: list[Path] = []
    for module in modules:
        found = importlib.util.find_spec(f"sft_cli.{module}")
        assert found is not None, module
        assert found.origin is not None, module
        file = Path(found.origin)
        files += sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def sha256_of_file(file: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blake2b_of_file(file: Path) -> str:
    """Return the BLAKE2b of a file, 32 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def blake2b_of_text(text: str) -> str:
    """Return the BLAKE2b of a text, 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_digest(directory: Path, origin: Any) -> str:
    """Return the digest that identifies an evaluated model: of its origin (plain values) and its local weight files."""
    files = sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]) if directory.is_dir() else []
    return json_digest([origin, [[file.name, blake2b_of_file(file)] for file in files]])
