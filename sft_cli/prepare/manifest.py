"""The manifest of a prepared directory: what went in, what came out, and the fingerprint that stands for it."""

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

VERSION = 6
"""Raised whenever a prepared directory would hold other files, or its inputs other keys."""
QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
LIBRARIES = ("tokenizers", "jinja2", "pyarrow")
"""Libraries that decide what an example is, or how it is written."""
SOURCE_RULES = ("max_rows", "weight", "cap", "epochs", "priority", "role", "loss_weight", "budget", "licence")
MIX_RULES = ("strategy", "temperature", "stopping_strategy", "total_rows", "stages", "val_fraction", "val_rows",
             "on_bad_row", "overflow", "budget")  # fmt: skip
MIX_CODE = ("config.automatic", "data.mixing", "prepare.pipeline", "prepare.source_split", "prepare.write_stage",
            "data.ledger", "data.prepared_writer", "prepare.prepared_files")  # fmt: skip
"""Modules that decide what an epoch holds and how it is written."""


def preparation_inputs(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate) -> dict[str, Any]:
    """Everything the prepared rows depend on, by stage: bytes of the data and the tokenizer, template, rules, code.

    Not on paths: the same bytes give the same rows wherever they lie.
    """
    data = asdict(config.data)
    found = {
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
    return json.loads(json.dumps(found, default=str))


def _source_inputs(config: Config) -> dict[str, Any]:
    """What the rows of every source depend on; the problems of all sources are told at once."""
    found, problems = {}, []
    for name, source in config.data.mix.items():
        try:
            found[name] = rows_stage.source_inputs(source, name, config.template.input_separator, config.trainer.seed)
        except SftError as error:
            problems.append(error)
    raise_all(problems)
    return found


def inputs_fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of the inputs as canonical JSON, 64 hexadecimal digits."""
    return json_digest(values)


def build_manifest(
    config: Config,
    inputs: Mapping[str, Any],
    ledger: Ledger,
    formats: Mapping[str, str],
    lengths: Mapping[SplitName, NDArray[np.int64]],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest as plain JSON values.

    Args:
        config: The run's.
        inputs: What the rows depend on.
        ledger: The account of the rows.
        formats: Format of every source.
        lengths: Tokens of every written example, by side.
        found: What else the stages found: columns, stop_tokens, remarks, unused_tokens, beside_own_template, clean,
            mix, stages.
    """
    mix_of, columns = config.data.mix, found["columns"]
    counts = {name: ledger.counts.get(name, {}) for name in mix_of}
    return {
        "fingerprint": inputs_fingerprint(inputs),
        "sft_cli": __version__,
        "model": config.model.path,
        "tokenizer": config.model.tokenizer or config.model.path,
        "template": template_name(config),
        "max_length": config.trainer.max_length,
        "splits": {side: _split_counts(ledger, side, lengths[side]) for side in lengths},
        "sources": {
            name: {
                "format": formats[name],
                "licence": source.licence,
                "role": source.role.value,
                "loss_weight": source.loss_weight,
                **columns[name],
                **counts[name],
            }
            for name, source in mix_of.items()
        },
        "dropped": ledger.reasons(),
        "held_out_dropped": dict(+ledger.held_out_dropped),
        "unrolled_rows": sum(
            ledger.split_rows[name] for name, source in mix_of.items() if source.role is Role.instruct
        ),
        "cut_documents": sum(ledger.split_rows[name] for name, source in mix_of.items() if source.role is Role.replay),
        **found,
        "inputs": dict(inputs),
    }


def template_name(config: Config) -> str:
    """What the chat template is called: its file, its name, or the tokenizer it came with."""
    if config.template.path:
        return config.template.path
    return "the tokenizer's own" if config.template.name == "auto" else config.template.name


def _split_counts(ledger: Ledger, side: SplitName, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Counts of one split, copies included; lengths in tokens."""
    counts = ledger.splits[side]
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
