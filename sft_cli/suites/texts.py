"""Suites of plain text: a file whose parts are the items, of which a model's perplexity is measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.schema.suites import SuiteConfig, SuiteKind
from sft_cli.errors import SftError
from sft_cli.scoring.statistics import bootstrap
from sft_cli.scoring.text_perplexity import bits_per_byte, perplexity
from sft_cli.scoring.types import Item
from sft_cli.suites.items import LoadedSuite, SuiteItem, load_suite
from sft_cli.suites.rows import shipped_file
from sft_cli.utils.hashing import json_digest

PART = 250
"""Most characters of a part; parts end at white space and are the units of intervals."""


def load_any_suite(name: str, suite: SuiteConfig, data_dir: str | None = None, limit: int | None = None) -> LoadedSuite:
    """Return a suite with its items: the rows of a file, or the parts of a text.

    Args:
        name: Name of the suite.
        suite: Its definition.
        data_dir: ``eval.data_dir``.
        limit: ``eval.limit``.

    Raises:
        SftError: There is no file, or it cannot be read.
    """
    if suite.kind is not SuiteKind.perplexity:
        return load_suite(name, suite, data_dir, limit)
    file = _file(name, suite, data_dir)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fix = f"convert it: iconv -f latin1 -t utf-8 {file} -o FILE, and set eval.suites.{name}.path=FILE"
        raise SftError(where=str(file), problem=f"the file is not UTF-8 (byte {error.start})", fix=fix) from error
    parts = text_parts(text)
    if not parts:
        raise SftError(where=str(file), problem="the file holds no text", fix=f"set eval.suites.{name}.path=FILE")
    used = parts[: min(number for number in (suite.limit, limit, len(parts)) if number is not None)]
    items = tuple(
        SuiteItem(Item(f"part-{number}", ({"role": "user", "content": part},)), f"{file.name}, part {number}")
        for number, part in enumerate(used, 1)
    )
    return LoadedSuite(name, suite, items, json_digest(text), len(items), len(parts), str(file))


def _file(name: str, suite: SuiteConfig, data_dir: str | None) -> Path:
    """Return the file of a suite of text."""
    inside = Path(data_dir or "") / (suite.file or "")
    shipped = shipped_file(suite)
    own = [inside] if data_dir and suite.file else []
    found = [Path(suite.path)] if suite.path else [*own, *([shipped] if shipped else [])]
    for file in found:
        if file.is_file():
            return file
    missing = f"there is no file {found[0]}" if found else "no file of text is named"
    raise SftError(where=f"eval.suites.{name}", problem=missing, fix=f"set eval.suites.{name}.path=FILE")


def text_parts(text: str) -> list[str]:
    """Return consecutive parts of a text of at most ``PART`` characters; together they are the text."""
    parts, start = list[str](), 0
    while start < len(text):
        end = start + PART
        if end < len(text):
            end = max(text.rfind("\n", start, end), text.rfind(" ", start, end), start - 1) + 1
            end = end if end > start else start + PART
        parts.append(text[start:end])
        start = end
    return parts if text.strip() else []


def text_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return perplexity and bits per byte over all parts, with intervals from a bootstrap of the parts."""

    def total(indices: Sequence[int], name: str) -> float:
        return sum(records[index][name] for index in indices)

    figures = {
        "bits_per_byte": lambda parts: bits_per_byte(total(parts, "nats"), total(parts, "scored_bytes")),
        "perplexity": lambda parts: perplexity(total(parts, "nats"), total(parts, "scored_tokens")),
    }
    estimates = {name: bootstrap(figure, len(records)) for name, figure in figures.items()}
    return {
        name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "clusters": e.clusters}
        for name, e in estimates.items()
    }
