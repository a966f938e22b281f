"""Build the manifest of a prepared directory: its inputs, its counts, and its fingerprint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli import __version__
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import Role
from sft_cli.data.ledger import Ledger
from sft_cli.errors import SftError, raise_all
from sft_cli.prepare import encode_stage, filter_stage, rows_stage
from sft_cli.types import SplitName
from sft_cli.utils.hashing import code_digest, json_digest

VERSION = 7
"""Incremented whenever a prepared directory gets other files, or its inputs other keys."""
QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
LIBRARIES = ("tokenizers", "jinja2", "pyarrow")
"""Libraries that affect the examples and their files."""
SOURCE_RULES = ("max_rows", "weight", "cap", "epochs", "priority", "role", "loss_weight", "budget", "licence")
MIX_RULES = ("strategy", "temperature", "stopping_strategy", "total_rows", "stages", "val_fraction", "val_rows",
             "holdout", "fraction", "leave_out", "on_bad_row", "overflow", "budget")  # fmt: skip
MIX_CODE = ("config.automatic", "data.mixing", "prepare.pipeline", "prepare.source_split", "prepare.tagged_holdout",
            "prepare.write_stage", "data.ledger", "data.prepared_writer", "prepare.prepared_files")  # fmt: skip
"""Modules that affect the rows of an epoch and how they are written."""


def preparation_inputs(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate) -> dict[str, Any]:
    """Return the inputs of the prepared rows, by stage: bytes of data and tokenizer, template, rules, code.

    Paths are not inputs: the same bytes give the same rows in any directory.
    """
    data = asdict(config.data)
    inputs = {
        "version": VERSION,
        "rows": _source_inputs(config),
        "clean": filter_stage.clean_inputs(filter_stage.resolve_scorer_model(config)),
        "encode": {
            "tokenizer": tokenizer.digests(),
            "special_tokens": dict(tokenizer.special_tokens),
            "template": template.source,
            "named_templates": dict(template.named),
            "content_tokens": list(tokenizer.content_tokens),
            "template_variables": dict(config.template.variables),
            "rules": {key: data[key] for key in encode_stage.RULES},
            "max_length": config.trainer.max_length,
            "libraries": {name: version(name) for name in LIBRARIES},
            "code": code_digest(*encode_stage.CODE),
        },
        "mix": {
            "rules": {key: data[key] for key in MIX_RULES},
            "order": list(config.data.mix),
            "sources": {name: {key: source[key] for key in SOURCE_RULES} for name, source in data["mix"].items()},
            "seed": config.trainer.seed,
            "code": code_digest(*MIX_CODE),
        },
    }
    return json.loads(json.dumps(inputs, default=str))


def _source_inputs(config: Config) -> dict[str, Any]:
    """Return the inputs of the rows of every source; raise the errors of all sources together."""
    inputs, problems = {}, []
    for name, source in config.data.mix.items():
        try:
            inputs[name] = rows_stage.source_inputs(source, name, config.template.input_separator, config.trainer.seed)
        except SftError as error:
            problems.append(error)
    raise_all(problems)
    return inputs


def inputs_fingerprint(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the inputs as canonical JSON, 64 hexadecimal digits."""
    return json_digest(values)


def build_manifest(
    config: Config,
    inputs: Mapping[str, Any],
    ledger: Ledger,
    formats: Mapping[str, str],
    lengths: Mapping[SplitName, NDArray[np.int64]],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest as JSON values.

    Args:
        config: The configuration of the run.
        inputs: The inputs of the rows.
        ledger: The ledger of the rows.
        formats: Format of every source.
        lengths: Tokens of every written example, by split.
        found: Other results of the stages: columns, stop_tokens, remarks, unused_tokens, replaces_own_template, clean,
            mix, held_out_groups, stages.
    """
    mix, columns = config.data.mix, found["columns"]
    counts = {name: ledger.counts.get(name, {}) for name in mix}
    return {
        "fingerprint": inputs_fingerprint(inputs),
        "sft_cli": __version__,
        "model": config.model.path,
        "tokenizer": config.model.tokenizer or config.model.path,
        "template": template_name(config),
        "max_length": config.trainer.max_length,
        "splits": {split: _split_counts(ledger, split, lengths[split]) for split in lengths},
        "sources": {
            name: {
                "format": formats[name],
                "licence": source.licence,
                "role": source.role.value,
                "loss_weight": source.loss_weight,
                **columns[name],
                **counts[name],
            }
            for name, source in mix.items()
        },
        "dropped": ledger.reasons(),
        "held_out_dropped": dict(+ledger.held_out_dropped),
        "unrolled_rows": sum(ledger.split_rows[name] for name, source in mix.items() if source.role is Role.instruct),
        "cut_documents": sum(ledger.split_rows[name] for name, source in mix.items() if source.role is Role.replay),
        **found,
        "inputs": dict(inputs),
    }


def template_name(config: Config) -> str:
    """Return the name of the chat template: its file, its name, or the tokenizer's own."""
    if config.template.path:
        return config.template.path
    return "the tokenizer's own" if config.template.name == "auto" else config.template.name


def _split_counts(ledger: Ledger, split: SplitName, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Return the counts of one split, including copies; lengths in tokens."""
    counts = ledger.splits[split]
    tokens, trained = counts["tokens"], counts["trained_tokens"]
    quantiles: Sequence[Any] = np.quantile(lengths, QUANTILES, method="lower").tolist() if len(lengths) else ()
    return {
        "rows": counts["used"],
        "examples": counts["examples"],
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4) if tokens else 0.0,
        "length_quantiles": {f"p{100 * q:g}": int(value) for q, value in zip(QUANTILES, quantiles, strict=False)},
    }


def write_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    """Write the manifest as indented JSON."""
    file.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
