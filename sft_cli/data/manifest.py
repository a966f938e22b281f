"""The manifest of a prepared directory: what went in, what came out, and the fingerprint that stands for it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sft_cli import __version__
from sft_cli.chat.template import ChatTemplate
from sft_cli.chat.tokenizer import ChatTokenizer
from sft_cli.config.schema import Config
from sft_cli.console import say, table
from sft_cli.data import sources
from sft_cli.data.ledger import Ledger
from sft_cli.data.prepared import Side

VERSION = 2
"""Raised whenever the same inputs would give other rows."""
QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.99, 1)


def inputs(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate) -> dict[str, Any]:
    """Everything the prepared rows depend on: bytes of the data and the tokenizer, template, rules.

    Not on paths: the same bytes give the same rows wherever they lie.
    """
    rules = json.loads(json.dumps(asdict(config.data), default=str))
    for source in rules["mix"].values():
        del source["path"], source["validation_path"]
    return {
        "version": VERSION,
        "data": rules,
        "sources": {name: sources.fingerprint(source, name) for name, source in config.data.mix.items()},
        "tokenizer": tokenizer.digests(),
        "special_tokens": dict(tokenizer.special_tokens),
        "template": template.source,
        "input_separator": config.template.input_separator,
        "max_length": config.trainer.max_length,
        "seed": config.trainer.seed,
    }


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of the inputs as canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Names of the inputs that differ, in words for the user."""
    names = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            if inner := difference(before, after, f"{prefix}{key}."):
                names.append(inner)
        elif before != after:
            names.append(f"{prefix}{key}")
    return ", ".join(names) + (" changed" if names and not prefix else "")


def build(
    config: Config,
    inputs: Mapping[str, Any],
    fingerprint: str,
    ledger: Ledger,
    formats: Mapping[str, str],
    lengths: Mapping[Side, Sequence[int]],
    stop_tokens: Sequence[str],
    sanitized: int,
    silent: Sequence[str],
) -> dict[str, Any]:
    """The manifest as plain JSON values."""
    counts = ledger.counts()
    licences = {name: source.licence for name, source in config.data.mix.items()}
    return {
        "fingerprint": fingerprint,
        "sft_cli": __version__,
        "template": config.template.path or config.template.name,
        "stop_tokens": list(stop_tokens),
        "splits": {side: _split(ledger, side, lengths[side]) for side in lengths},
        "sources": {
            name: {"format": formats[name], "licence": licences[name], **counts.get(name, {})} for name in formats
        },
        "dropped": ledger.reasons(),
        "sanitized_rows": sanitized,
        "empty_answers": {"rows": len(silent), "first": silent[0] if silent else None},
        "unrolled_rows": sum(entry.examples > 1 for entry in ledger),
        "inputs": dict(inputs),
    }


def _split(ledger: Ledger, side: Side, lengths: Sequence[int]) -> dict[str, Any]:
    """Counts of one split, copies included; lengths in tokens."""
    entries = [entry for entry in ledger if entry.split == side and entry.fate == "used"]
    tokens = sum(entry.tokens * entry.copies for entry in entries)
    trained = sum(entry.trained_tokens * entry.copies for entry in entries)
    quantiles = np.quantile(lengths, QUANTILES, method="lower") if lengths else []
    return {
        "rows": len(entries),
        "examples": len(lengths),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4) if tokens else 0.0,
        "length_quantiles": {f"p{100 * q:g}": int(value) for q, value in zip(QUANTILES, quantiles, strict=False)},
    }


def write(manifest: Mapping[str, Any], file: Path) -> None:
    """Write the manifest as indented JSON."""
    file.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def show(manifest: Mapping[str, Any], directory: Path, seconds: float) -> None:
    """Print what was prepared."""
    columns = ("rows", "used", "dropped", "not_sampled", "truncated", "examples", "tokens", "trained_tokens")
    found = manifest["sources"]
    rows = [(name, source["format"], *(source.get(column, 0) for column in columns)) for name, source in found.items()]
    table(("source", "format", *(column.replace("_", " ") for column in columns)), rows)
    for reason, count in manifest["dropped"].items():
        say(f"dropped   {count} rows: {reason}")
    if manifest["unrolled_rows"]:
        say(f"unrolled  {manifest['unrolled_rows']} rows: one example per trained turn, because their history changes")
    if manifest["sanitized_rows"]:
        say(
            f"sanitized {manifest['sanitized_rows']} rows: special-token strings in messages were encoded as plain text"
        )
    if manifest["empty_answers"]["rows"]:
        rows, first = manifest["empty_answers"].values()
        say(f"empty     {rows} rows have an empty answer (the first: {first}); they teach to stop at once")
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    share = train["trained_share"]
    usual = "" if 0.2 <= share <= 0.8 else "  (30-60% is usual for instruction data)"
    say(f"trained   {train['trained_tokens']:,} of {train['tokens']:,} training tokens carry loss ({share:.0%}){usual}")
    say(f"held out  {validation['examples']:,} examples")
    rate = sum(source.get("rows", 0) for source in found.values()) / seconds
    fingerprint = manifest["fingerprint"][:16]
    say(f"data      {directory} written in {seconds:.1f} s ({rate:,.0f} rows/s), fingerprint {fingerprint}")
