"""`sft prepare`: from the sources of a config to a directory of proven examples, every input row accounted for."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.loading import MissingTemplateError, load_template
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.chat.tokens.added_tokens import add_tokens, added_ids
from sft_cli.chat.tokens.content_tokens import with_content_tokens
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.clean import registry as filters
from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.paths import cache_home, resolve
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.data import prepared
from sft_cli.data.ledger import Ledger
from sft_cli.data.mixing import curriculum, mix_report
from sft_cli.data.prepared import PreparedData, SplitWriter
from sft_cli.data.remarks import RemarkCounts
from sft_cli.errors import SftError, raise_all
from sft_cli.prepare import (
    dropped_rows,
    filter_stage,
    input_diff,
    pipeline,
    publish,
    source_preview,
    stage_cache,
    summary,
    write_stage,
)
from sft_cli.prepare import manifest as manifests
from sft_cli.report import ledger_view
from sft_cli.report.page import write_report
from sft_cli.types import SplitName
from sft_cli.utils.atomic import apply_umask, write_atomic
from sft_cli.utils.hashing import json_digest


def prepare_data(config: Config, *, training: bool = True) -> PreparedData:
    """Prepare the data of a config, or open what an earlier run with the same inputs prepared.

    ``training`` is False where the rows are evaluated only: what is printed then speaks of that.

    Raises:
        SftError: A source, template or row cannot be used; nothing is left behind but finished stages in the cache.
    """
    started = time.perf_counter()
    _check_sources(config)
    tokenizer, template = load_tokenizer_and_template(config)
    inputs = manifests.preparation_inputs(config, tokenizer, template)
    fingerprint = manifests.inputs_fingerprint(inputs)
    directory = _target_directory(config, fingerprint)
    present = prepared.read_manifest(directory)
    if present is not None and present["fingerprint"] == fingerprint:
        say(f"data      {directory} is up to date (fingerprint {fingerprint[:16]})")
        return prepared.open_prepared(directory)
    _check_target(directory, ours=present is not None)
    if present is not None:
        say(f"data      {directory} is prepared again: {input_diff.describe_changes(present['inputs'], inputs)}")
    check_template(config, tokenizer, template)
    filters.check_filters(filter_stage.resolve_scorer_model(config))
    stage_cache.evict_old()
    result = pipeline.run_stages(config, tokenizer, template, inputs)
    new = publish.temp_directory(directory)
    try:
        manifest = _write(new, config, result, inputs, tokenizer, template)
        tokenizer.with_template(template.source, template.named).save(new / "tokenizer")
        write_report(new)
        apply_umask(new)
        publish.replace_directory(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _save_inputs(config, inputs)
    summary.print_summary(manifest, directory, time.perf_counter() - started, training=training)
    return prepared.open_prepared(directory)


def find_prepared(config: Config) -> PreparedData | None:
    """What an earlier run prepared of the same inputs, whatever their paths; None where there is none.

    Raises:
        SftError: A source or the template cannot be used.
    """
    _check_sources(config)
    fingerprint = manifests.inputs_fingerprint(
        manifests.preparation_inputs(config, *load_tokenizer_and_template(config))
    )
    directory = _target_directory(config, fingerprint)
    present = prepared.read_manifest(directory)
    found = present is not None and present["fingerprint"] == fingerprint
    return prepared.open_prepared(directory) if found else None


def explain_stages(config: Config) -> list[str]:
    """One line for each stage: whether preparing would run it again, and which input changed since the last time."""
    _check_sources(config)
    tokenizer, template = load_tokenizer_and_template(config)
    inputs = manifests.preparation_inputs(config, tokenizer, template)
    present = prepared.read_manifest(_target_directory(config, manifests.inputs_fingerprint(inputs)))
    file = _last_inputs_file(config)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return summary.stage_changes(present["inputs"] if present else known, inputs)


def load_tokenizer_and_template(config: Config) -> tuple[ChatTokenizer, ChatTemplate]:
    """The tokenizer and the chat template of a config."""
    name = config.model.tokenizer or config.model.path
    if name is None:
        raise SftError(
            where="model.path",
            problem="no model is given",
            fix="type model.path=DIR_OR_HUB_ID (sft prepare needs only model.tokenizer=DIR_OR_HUB_ID)",
        )
    if config.model.tokenizer is None:
        tokenizer = load_tokenizer(name, config.model.revision, "model.path")
    else:
        tokenizer = load_tokenizer(name)
    tokenizer = add_tokens(tokenizer, config.model.add_tokens)
    try:
        template = load_template(config.template, tokenizer)
    except MissingTemplateError as error:
        plain = load_template(replace(config.template, name="plain"), tokenizer)
        fix = TemplateCheck(tokenizer, replace(plain, source=""), config.data).suggestion(
            source_preview.first_row_features(config)
        )
        raise_all([SftError(where=error.where, problem=error.problem, fix=fix), *_beyond_context(config)])
        raise
    except SftError as error:
        raise_all([error, *_beyond_context(config)])
        raise
    return with_content_tokens(tokenizer, template, config.model.add_tokens, config.data.content_tokens), template


def check_template(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate) -> None:
    """Refuse a template that can teach no model to answer, together with a length that the model cannot take."""
    try:
        TemplateCheck(tokenizer, template, config.data).check(partial(source_preview.first_row_features, config))
    except SftError as error:
        raise_all([error, *_beyond_context(config)])


def _beyond_context(config: Config) -> list[SftError]:
    """The mistake of a ``trainer.max_length`` that the model cannot take.

    Shorter rows make it none, so it is reported only beside what has to be corrected before rows can be measured.
    """
    context, length = read_context_length(config.model.path, config.model.revision), config.trainer.max_length
    if context is None or length <= context:
        return []
    return [
        SftError(
            where=f"trainer.max_length={length}",
            problem=f"the model takes at most {context:,} tokens",
            fix=f"trainer.max_length={context}",
        )
    ]


def _check_sources(config: Config) -> None:
    if not config.data.mix:
        raise SftError(
            where="data.mix",
            problem="there is no data",
            fix="type data=local data.mix.local.path=rows.jsonl, or choose a recipe (sft recipes)",
        )


def _target_directory(config: Config, fingerprint: str) -> Path:
    """Where the prepared rows go."""
    chosen = config.prepared_dir
    return Path(resolve(chosen)) if chosen else cache_home() / "prepared" / fingerprint[:16]


def _check_target(directory: Path, ours: bool) -> None:
    """Refuse a directory that cannot be made, or whose replacement would lose what sft prepare did not write."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not there.is_dir():
        problem = "it is a file" if there == directory else f"{there} is a file"
    elif there != directory:
        return
    elif ours and (foreign := prepared.unknown_files(directory)):
        problem = f"data have changed, and the directory to replace also holds {', '.join(foreign[:3])}"
    elif not ours and any(directory.iterdir()):
        problem = "the directory is not empty and was not written by sft prepare"
    else:
        return
    raise SftError(
        where=f"prepared_dir={directory}", problem=problem, fix="name another directory, or leave prepared_dir out"
    )


def _write(
    new: Path,
    config: Config,
    result: pipeline.PipelineResult,
    inputs: dict[str, Any],
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
) -> dict[str, Any]:
    """Write everything but tokenizer and report into ``new``; the manifest.

    Args:
        new: An empty directory.
        config: The run's.
        result: The result of the stages before.
        inputs: What they depend on.
        tokenizer: The run's, with the chat templates it came with.
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
        "beside_own_template": bool(own) and template.source not in own,
        "clean": result.reports,
        "mix": mix_report.build_mix_report(result.draw, pools, [split.tags for split in result.training]),
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
    new: Path, config: Config, result: pipeline.PipelineResult, inputs: dict[str, Any]
) -> tuple[Ledger, RemarkCounts]:
    """Write what became of every input row, and samples of those that were dropped.

    Args:
        new: The directory.
        config: The run's.
        result: The result of the stages before.
        inputs: What they depend on.

    Raises:
        SftError: More rows were lost than a budget allows, or no training row is left.
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
            fix="see clean.steps, data.val_fraction and max_rows",
        )
    return ledger, remarks


def _write_examples(new: Path, result: pipeline.PipelineResult) -> tuple[dict[SplitName, NDArray[np.int64]], list[Any]]:
    """Write the examples of both splits; ``(examples,)`` tokens of those of each split, and digests of the files."""
    weighted = any(split.encoded.weighted for split in result.splits)
    sides: tuple[SplitName, ...] = ("train", "validation")
    writers: dict[SplitName, SplitWriter] = {side: SplitWriter(new, side, weighted) for side in sides}
    write_stage.write_examples(result.splits, writers)
    for writer in writers.values():
        writer.close()
    prepared.write_dataset_dict(new)
    lengths: dict[SplitName, NDArray[np.int64]] = {side: writer.lengths for side, writer in writers.items()}
    return lengths, [writer.content() for writer in writers.values()]


def _stop_tokens(result: pipeline.PipelineResult, tokenizer: ChatTokenizer) -> list[str]:
    """The tokens that end an answer: those that examples train, or the tokenizer's ``eos_token`` where none does.

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
        fix="end the token ids of each row in a special token, or name an eos_token in tokenizer_config.json",
    )


def _unused_tokens(new: Path, tokenizer: ChatTokenizer, added: Sequence[str]) -> list[str]:
    """The added tokens that occur in no training example."""
    ids = dict(zip(added_ids(tokenizer, added), added, strict=True))
    present = prepared.Split(new / "train").present(list(ids)) if ids else set()
    return [token for id, token in ids.items() if id not in present]


def _epoch_lengths(lengths: NDArray[np.int64], epoch: Sequence[curriculum.Stage]) -> NDArray[np.int64]:
    """``(entries,)``: tokens of every example of an epoch, repeats counted."""
    return np.concatenate([lengths[stage.entries] for stage in epoch])


def _last_inputs_file(config: Config) -> Path:
    """Where the inputs of the last preparation of these sources are kept."""
    names = {"mix": sorted(config.data.mix), "prepared_dir": config.prepared_dir, "directory": str(Path.cwd())}
    return cache_home() / "stages" / "last" / f"{json_digest(names)[:32]}.json"


def _save_inputs(config: Config, inputs: dict[str, Any]) -> None:
    """Keep the inputs for ``explain_stages``."""
    file = _last_inputs_file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(inputs, ensure_ascii=False).encode())
