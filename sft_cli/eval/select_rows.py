"""The rows to evaluate a run on: its held-out rows, or others that the command line names. Does not import torch."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.content_tokens import allowed_content_tokens
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.redaction import redact_values
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.console import counted, say
from sft_cli.data.prepared import PreparedData, Split, open_prepared, read_manifest
from sft_cli.data.sources.source_rows import has_validation
from sft_cli.errors import SftError
from sft_cli.eval.trained_on import TrainingOverlap, find_training_overlap
from sft_cli.prepare import input_diff
from sft_cli.prepare import manifest as manifests
from sft_cli.prepare.model_template import load_tokenizer_and_template
from sft_cli.prepare.prepare import prepare_data
from sft_cli.run_dir import RunDir
from sft_cli.types import SplitName

DATA_OPTION = "data=FILE"


@dataclass(frozen=True, slots=True)
class EvalRows:
    """The examples of an evaluation and their origin.

    Attributes:
        split: The examples.
        side: The name of the split in the prepared directory.
        directory: The prepared directory.
        fingerprint: Digest of the inputs of preparation.
        sources: Names of the sources.
        is_run_holdout: Whether the rows are those that the run held out.
        overlap: Examples that the run was trained on; None for held-out rows of the run, or if its training data is
            deleted.
    """

    split: Split
    side: SplitName
    directory: Path
    fingerprint: str
    sources: tuple[str, ...]
    is_run_holdout: bool
    overlap: TrainingOverlap | None = None


def select_rows(run: RunDir, trained: Config, config: Config) -> EvalRows:
    """Select the rows to evaluate on, and print them.

    Args:
        run: The run.
        trained: The config of the run.
        config: The config with the overrides of the command line.

    Raises:
        SftError: There are no such rows, or they cannot be prepared.
    """
    if config.data == trained.data and config.trainer.max_length == trained.trainer.max_length:
        rows = _eval_rows(run_data(run, with_run_tokenizer(run.tokenizer, trained)), "validation", own=True)
        if not len(rows.split):
            raise SftError(
                where=str(run.path),
                problem="the run held out no rows",
                fix=f"name rows: sft eval {shlex.quote(str(run.path))} {DATA_OPTION}",
            )
    else:
        prepared = prepare_data(with_run_tokenizer(run.tokenizer, _without_holdout(trained, config)), training=False)
        rows = _eval_rows(prepared, "validation" if len(prepared.validation) else "train", own=False)
        rows = replace(rows, overlap=_training_overlap(run, rows))
    say(f"rows      {_describe_rows(rows, config)}")
    if rows.overlap is not None:
        for line in _overlap_warnings(rows.split, rows.overlap):
            say(line)
    elif (path := _shared_path(trained, config, rows.side)) and not rows.is_run_holdout:
        say(
            f"warning: the run was trained on rows of {path}, and its prepared data no longer exists: these rows may be"
            " the same"
        )
    return rows


def select_bare_rows(model: str, config: Config) -> EvalRows:
    """Prepare the rows of ``data=FILE`` for a model that no run belongs to, and print what they are.

    Args:
        model: The model as typed.
        config: The config of the evaluation.

    Raises:
        SftError: No rows are named, or they cannot be prepared.
    """
    if not config.data.mix:
        name = shlex.quote(model)
        fix = f"sft eval {name} {DATA_OPTION}, or sft eval {name} eval=SUITE"
        raise SftError(where=model, problem="a model that no run belongs to has no held-out rows", fix=fix)
    check_required(config, "eval")
    prepared = prepare_data(replace(config, prepared_dir=None), training=False)
    rows = _eval_rows(prepared, "validation" if len(prepared.validation) else "train", own=False)
    say(f"rows      {_describe_rows(rows, config)}")
    return rows


def _describe_rows(rows: EvalRows, config: Config) -> str:
    """Return a phrase that names the rows."""
    number = len(rows.split)
    if rows.side == "validation":
        return f"{counted(number, 'held-out example')} of {rows.directory}"
    paths = ", ".join(redact_values(source.path) for source in config.data.mix.values())
    return f"{counted(number, 'example')} of {paths} ({rows.directory})"


def _training_overlap(run: RunDir, rows: EvalRows) -> TrainingOverlap | None:
    """Return the examples that the run was trained on; None if its training data no longer exist."""
    stored = stored_run_data(run)
    return None if stored is None else find_training_overlap(rows.split, stored.train)


def stored_run_data(run: RunDir) -> PreparedData | None:
    """Return the data that the run was trained with; None if it no longer exists."""
    recorded = run.read_json(run.data) if run.data.is_file() else {}
    manifest = read_manifest(Path(recorded["prepared_dir"])) if recorded else None
    if manifest is None or manifest["content"] != recorded["content"]:
        return None
    return open_prepared(Path(recorded["prepared_dir"]))


def _overlap_warnings(split: Split, overlap: TrainingOverlap) -> Iterator[str]:
    """Yield warnings about examples that the run was trained on."""
    number = counted(len(split), "example")
    if overlap.examples:
        first = split.where(overlap.examples[0])
        yield (
            f"warning: the run was trained on {len(overlap.examples):,} of the {number} (the first: {first}): their"
            " scores measure memorization"
        )
    if overlap.prompts:
        first = split.where(overlap.prompts[0])
        yield (
            f"warning: the prompt of {len(overlap.prompts):,} of the {number} was trained with another answer ({first})"
        )


def _without_holdout(trained: Config, config: Config) -> Config:
    """Return the config without an automatic hold-out or that of groups: every row of other data is evaluated."""
    if config.data.mix == trained.data.mix:
        return config
    fraction = 0.0 if isinstance(config.data.val_fraction, Auto) else config.data.val_fraction
    return replace(config, data=replace(config.data, val_fraction=fraction, holdout={}))


def with_run_tokenizer(tokenizer: Path, config: Config) -> Config:
    """Return the config with the run's saved tokenizer, template and added tokens, and the cache as prepared_dir."""
    template = replace(config.template, name="auto", path=None)
    saved = load_tokenizer(str(tokenizer))
    content = allowed_content_tokens(saved, load_template(template, saved), config.model.add_tokens)
    return replace(
        config,
        prepared_dir=None,
        model=replace(config.model, tokenizer=str(tokenizer), add_tokens=[]),
        data=replace(config.data, content_tokens=list(dict.fromkeys([*content, *config.data.content_tokens]))),
        template=template,
    )


def run_data(run: RunDir, config: Config) -> PreparedData:
    """Return the data that the run was trained with, prepared again if it no longer exists."""
    if not run.data.is_file():
        raise SftError(
            where=str(run.data),
            problem="the file that names the run's data is missing",
            fix=f"name rows: sft eval {shlex.quote(str(run.path))} {DATA_OPTION}",
        )
    if (stored := stored_run_data(run)) is not None:
        return stored
    recorded = run.read_json(run.data)
    directory = Path(recorded["prepared_dir"])
    say(f"data      {directory} no longer has the run's data: preparing it again")
    inputs = manifests.preparation_inputs(config, *load_tokenizer_and_template(config))
    changed = [
        name
        for name in input_diff.changed_names(run.read_json(run.manifest)["inputs"], inputs)
        if name != input_diff.THIS_VERSION
    ]
    prepared = None if changed else prepare_data(config)
    if prepared is None or prepared.manifest["content"] != recorded["content"]:
        raise SftError(
            where=str(directory),
            problem="the run's data no longer exists and cannot be prepared again: "
            f"{', '.join(changed) or input_diff.THIS_VERSION} changed since",
            fix=f"restore it, or name rows: sft eval {shlex.quote(str(run.path))} {DATA_OPTION}",
        )
    return prepared


def _shared_path(trained: Config, config: Config, side: SplitName) -> str | None:
    """Return a path that both the training and this evaluation read rows from, or None."""
    training_paths = {redact_values(source.path) for source in trained.data.mix.values()}
    shared_sources = [source for source in config.data.mix.values() if redact_values(source.path) in training_paths]
    if side == "validation" and config.data.val_fraction == trained.data.val_fraction:
        return None
    return next(
        (redact_values(source.path) for source in shared_sources if side == "train" or not has_validation(source)), None
    )


def _eval_rows(prepared: PreparedData, side: SplitName, *, own: bool) -> EvalRows:
    """Return the rows of one split of a prepared directory."""
    split = prepared.validation if side == "validation" else prepared.train
    manifest = prepared.manifest
    return EvalRows(split, side, prepared.directory, manifest["fingerprint"], tuple(manifest["sources"]), own)
