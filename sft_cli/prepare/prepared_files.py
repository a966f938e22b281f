"""Write the files of a prepared directory: ledger, examples, stages, golden prompts and manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import Config
from sft_cli.data import prepared
from sft_cli.data.ledger import Ledger
from sft_cli.data.mixing import curriculum, mix_report
from sft_cli.data.prepared_writer import SplitWriter, write_dataset_dict
from sft_cli.data.remarks import RemarkCounts
from sft_cli.errors import SftError
from sft_cli.prepare import dropped_rows, write_stage
from sft_cli.prepare import manifest as manifests
from sft_cli.prepare.pipeline import PipelineResult
from sft_cli.prepare.tagged_holdout import count_groups
from sft_cli.report import ledger_view
from sft_cli.types import SplitName
from sft_cli.utils.hashing import json_digest


def write_prepared_files(
    new: Path,
    config: Config,
    result: PipelineResult,
    inputs: dict[str, Any],
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
) -> dict[str, Any]:
    """Write all files except the tokenizer and the report, and return the manifest.

    Args:
        new: An empty directory.
        config: The config.
        result: The result of the earlier stages.
        inputs: The inputs of these stages.
        tokenizer: The tokenizer, with its own chat templates.
        template: The chat template that rendered the rows.
    """
    ledger, remarks = _write_ledger(new, config, result, inputs)
    lengths, content = _write_examples(new, result)
    pools = [split.pool for split in result.training]
    epoch = curriculum.build_stages(result.draw, pools, result.example_starts(), lengths["train"], config.trainer.seed)
    curriculum.save_stages(epoch, new)
    parity.save_golden_prompts(
        [golden for split in result.splits for golden in split.encoded.goldens], new / "golden.json"
    )
    own = {*([tokenizer.chat_template] if tokenizer.chat_template else []), *tokenizer.named_templates.values()}
    found = {
        "columns": {name: unread.named() for name, unread in result.unread.items()},
        "content": json_digest([content, [stage.content() for stage in epoch]]),
        "stop_tokens": _stop_tokens(result, tokenizer),
        "remarks": remarks.as_json(),
        "unused_tokens": _unused_tokens(new, tokenizer, config.model.add_tokens),
        "replaces_own_template": bool(own) and template.source not in own,
        "clean": result.reports,
        "mix": mix_report.build_mix_report(result.draw, pools, [split.tags for split in result.training]),
        "held_out_groups": count_groups(result.splits, config.data.holdout),
        "stages": [{"name": stage.name, "order": stage.order.value, "examples": len(stage.entries)} for stage in epoch],
    }
    of_epoch: dict[SplitName, NDArray[np.int64]] = {
        "train": _epoch_lengths(lengths["train"], epoch),
        "validation": lengths["validation"],
    }
    manifest = manifests.build_manifest(config, inputs, ledger, result.formats, of_epoch, found)
    manifests.write_manifest(manifest, new / "manifest.json")
    return manifest


def _write_ledger(
    new: Path, config: Config, result: PipelineResult, inputs: dict[str, Any]
) -> tuple[Ledger, RemarkCounts]:
    """Write the outcome of every input row, and samples of the dropped rows.

    Args:
        new: The directory.
        config: The config.
        result: The result of the earlier stages.
        inputs: The inputs of these stages.

    Raises:
        SftError: More rows were lost than ``budget`` allows, or no training row is left.
    """
    with open(new / "ledger.jsonl", "w", encoding="utf-8") as file:
        ledger = Ledger(file)
        remarks = write_stage.write_ledger(result.splits, ledger)
    ledger.check_budgets(config.data, result.lengths)
    chosen = ledger_view.sample_ledger(new / "ledger.jsonl", manifests.inputs_fingerprint(inputs)).dropped.values()
    locations = {(line["source"], line["where"]) for lines in chosen for line in lines}
    if any(step["filter"] == "pii" for step in inputs["clean"]):
        locations = set()  # what that filter drops or rewrites must not be written into the prepared directory
    dropped_rows.write_dropped_rows(new / dropped_rows.FILE_NAME, result.splits, locations)
    if not ledger.splits["train"]["examples"]:
        lost = ledger.summarize_reasons()
        raise SftError(
            where="data.mix",
            problem="no training row is left" + (f": {lost}" if lost else ""),
            fix="keep more rows: clean.steps=[] data.val_fraction=0",
        )
    return ledger, remarks


def _write_examples(new: Path, result: PipelineResult) -> tuple[dict[SplitName, NDArray[np.int64]], list[Any]]:
    """Write the examples of both splits; return their lengths ``(examples,)`` by split, and digests of the files."""
    weighted = any(split.encoded.weighted for split in result.splits)
    sides: tuple[SplitName, ...] = ("train", "validation")
    writers: dict[SplitName, SplitWriter] = {side: SplitWriter(new, side, weighted) for side in sides}
    write_stage.write_examples(result.splits, writers)
    for writer in writers.values():
        writer.close()
    write_dataset_dict(new)
    lengths: dict[SplitName, NDArray[np.int64]] = {side: writer.lengths for side, writer in writers.items()}
    return lengths, [writer.content() for writer in writers.values()]


def _stop_tokens(result: PipelineResult, tokenizer: ChatTokenizer) -> list[str]:
    """The tokens that end an answer: those that examples train, or the tokenizer's ``eos_token`` if none does.

    Raises:
        SftError: There is none, so that no generation would ever end.
    """
    if trained := sorted({stop for split in result.splits for stop in split.encoded.stops}):
        return trained
    eos = tokenizer.special_tokens.get("eos_token")
    if eos is not None and eos in tokenizer.control_tokens:
        return [eos]
    raise SftError(
        where="data.mix",
        problem="no example ends in a special token, and the tokenizer names no eos_token: answers would never end",
        fix="end the token ids of each row in a special token, or add an eos_token to tokenizer_config.json",
    )


def _unused_tokens(new: Path, tokenizer: ChatTokenizer, added: Sequence[str]) -> list[str]:
    """The added tokens that occur in no training example."""
    ids = dict(zip(added_ids(tokenizer, added), added, strict=True))
    present = prepared.Split(new / "train").present(list(ids)) if ids else set()
    return [token for id, token in ids.items() if id not in present]


def _epoch_lengths(lengths: NDArray[np.int64], epoch: Sequence[curriculum.Stage]) -> NDArray[np.int64]:
    """``(entries,)``: the length of every example of an epoch, repeats included."""
    return np.concatenate([lengths[stage.entries] for stage in epoch])
