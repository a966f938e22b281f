"""Which rows a run is evaluated on: those it held out, or others that the command line names. No torch."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.content_tokens import allowed_content_tokens
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.redaction import redact_values
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.console import counted, say
from sft_cli.data.prepared import Prepared, Side, Split, open_prepared, read_manifest
from sft_cli.data.sources.source_rows import has_validation
from sft_cli.errors import SftError
from sft_cli.eval.trained_on import Overlap, overlap
from sft_cli.prepare import input_diff
from sft_cli.prepare import manifest as manifests
from sft_cli.prepare.prepare import prepare, read_template
from sft_cli.run_dir import RunDir

OTHER_DATA = "data=FILE"


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples of an evaluation, and where they come from.

    Attributes:
        split: The examples.
        side: Which split of the prepared directory they are.
        directory: The prepared directory.
        fingerprint: What it was prepared from.
        sources: Names of its sources.
        own: Whether they are the rows that the run itself held out.
        seen: How many of other rows the run was trained on; None for its own, or where its data are gone.
    """

    split: Split
    side: Side
    directory: Path
    fingerprint: str
    sources: tuple[str, ...]
    own: bool
    seen: Overlap | None = None


def choose_rows(run: RunDir, trained: Config, config: Config) -> Rows:
    """The rows to evaluate on.

    Args:
        run: The run.
        trained: Its own config.
        config: The same with the command line's overrides.

    Raises:
        SftError: There are none, or they cannot be prepared.
    """
    if config.data == trained.data and config.trainer.max_length == trained.trainer.max_length:
        rows = _rows(_own(run, as_served(run.tokenizer, trained)), "validation", own=True)
        if not len(rows.split):
            raise SftError(
                where=str(run.path),
                problem="the run held out no rows",
                fix=f"name rows: sft eval {shlex.quote(str(run.path))} {OTHER_DATA}",
            )
    else:
        prepared = prepare(as_served(run.tokenizer, _all_asked(trained, config)), training=False)
        rows = _rows(prepared, "validation" if len(prepared.validation) else "train", own=False)
        rows = replace(rows, seen=_seen(run, rows))
    say(f"rows      {_which(rows, config)}")
    if rows.seen is not None:
        for line in _warnings(rows.split, rows.seen):
            say(line)
    elif (path := _trained_path(trained, config, rows.side)) and not rows.own:
        say(f"warning: the run's training rows are gone, and it was trained on rows of {path}: these may be the same")
    return rows


def _which(rows: Rows, config: Config) -> str:
    """Which rows are evaluated, in words."""
    number = len(rows.split)
    if rows.side == "validation":
        return f"{counted(number, 'held-out example')} of {rows.directory}"
    paths = ", ".join(redact_values(source.path) for source in config.data.mix.values())
    return f"{counted(number, 'example')} of {paths} ({rows.directory})"


def _seen(run: RunDir, rows: Rows) -> Overlap | None:
    """How many of other rows the run was trained on; None where the rows it was trained on are gone."""
    known = run.read(run.data) if run.data.is_file() else {}
    manifest = read_manifest(Path(known["prepared_dir"])) if known else None
    if manifest is None or manifest["content"] != known["content"]:
        return None
    return overlap(rows.split, Split(Path(known["prepared_dir"]) / "train"))


def _warnings(split: Split, seen: Overlap) -> Iterator[str]:
    """What to say about examples that the run was trained on."""
    number = counted(len(split), "example")
    if seen.same:
        first = split.where(seen.same[0])
        yield (
            f"warning: the run was trained on {len(seen.same):,} of the {number} (the first: {first}): on these it"
            " measures what was memorised"
        )
    if seen.asked:
        first = split.where(seen.asked[0])
        yield f"warning: the prompt of {len(seen.asked):,} of the {number} was trained with another answer ({first})"


def _all_asked(trained: Config, config: Config) -> Config:
    """The config with every row of other data asked: what the run would hold out of it by itself is no limit here."""
    if config.data.mix == trained.data.mix or not isinstance(config.data.val_fraction, Auto):
        return config
    return replace(config, data=replace(config.data, val_fraction=0.0))


def as_served(tokenizer: Path, config: Config) -> Config:
    """The config with a run's saved tokenizer, its template and added tokens in it, preparing under the cache."""
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


def _own(run: RunDir, config: Config) -> Prepared:
    """The data the run was trained with, prepared again if it is gone."""
    if not run.data.is_file():
        raise SftError(
            where=str(run.data),
            problem="the file that names the run's data is missing",
            fix=f"name rows: sft eval {shlex.quote(str(run.path))} {OTHER_DATA}",
        )
    known = run.read(run.data)
    directory = Path(known["prepared_dir"])
    manifest = read_manifest(directory)
    if manifest is not None and manifest["content"] == known["content"]:
        return open_prepared(directory)
    say(f"data      {directory} no longer holds the run's data: preparing it again")
    now = manifests.inputs(config, *read_template(config))
    changed = [name for name in input_diff.names(run.read(run.manifest)["inputs"], now) if name != input_diff.CODE]
    made = None if changed else prepare(config)
    if made is None or made.manifest["content"] != known["content"]:
        raise SftError(
            where=str(directory),
            problem="the run's data is gone and cannot be prepared again: "
            f"{', '.join(changed) or input_diff.CODE} changed since",
            fix=f"restore it, or name rows: sft eval {shlex.quote(str(run.path))} {OTHER_DATA}",
        )
    return made


def _trained_path(trained: Config, config: Config, side: Side) -> str | None:
    """A path whose rows the run was trained on and that this evaluation may take rows of, too."""
    known = {redact_values(source.path) for source in trained.data.mix.values()}
    again = [source for source in config.data.mix.values() if redact_values(source.path) in known]
    if side == "validation" and config.data.val_fraction == trained.data.val_fraction:
        return None
    return next((redact_values(source.path) for source in again if side == "train" or not has_validation(source)), None)


def _rows(prepared: Prepared, side: Side, *, own: bool) -> Rows:
    """One split of a prepared directory."""
    split = prepared.validation if side == "validation" else prepared.train
    manifest = prepared.manifest
    return Rows(split, side, prepared.directory, manifest["fingerprint"], tuple(manifest["sources"]), own)
