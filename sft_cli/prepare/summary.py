"""Print the summary of `sft prepare`, and the stages that would run again with the reasons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.automatic import ENOUGH
from sft_cli.config.schema.fields import Auto
from sft_cli.console import counted, say, table
from sft_cli.data import trained_share
from sft_cli.data.ledger import COUNTED_COLUMNS
from sft_cli.data.mixing import mix_report
from sft_cli.data.remarks import remark_sentences
from sft_cli.prepare import input_diff

MAX_PASSES = 4
"""Passes in an epoch beyond which repeats bring little (Muennighoff et al. 2023, arXiv:2305.16264)."""
OPTIONAL_COLUMNS = ("dropped", "not_sampled", "truncated", "truncated_tokens")
"""Columns that are left out if they are 0 for every source."""


EVALUATION_HEADINGS = {"trained_tokens": "evaluated tokens"}
"""Headings of columns in evaluations."""


def print_summary(manifest: Mapping[str, Any], directory: Path, seconds: float, *, training: bool = True) -> None:
    """Print a summary of prepared data, for training or for an evaluation."""
    sources = manifest["sources"]
    # A column of zeros adds nothing to the lines below the table.
    columns = [
        name
        for name in COUNTED_COLUMNS
        if name not in OPTIONAL_COLUMNS or any(source.get(name) for source in sources.values())
    ]
    rows = [
        (name, source["format"], *(source.get(column, 0) for column in columns)) for name, source in sources.items()
    ]
    headings = {} if training else EVALUATION_HEADINGS
    table(("source", "format", *(headings.get(column, column.replace("_", " ")) for column in columns)), rows)
    if len(sources) > 1 or len(manifest["stages"]) > 1 or manifest["mix"]["tags"]:
        for mix_table in mix_report.mix_tables(manifest["mix"]):
            say(mix_table.heading)
            table(mix_table.columns, mix_table.rows)
    for reason, count in manifest["dropped"].items():
        say(f"dropped   {counted(count, 'row')}: {reason}")
    if truncated_tokens := sum(source.get("truncated_tokens", 0) for source in sources.values()):
        rows_cut = sum(source.get("truncated", 0) for source in sources.values())
        limit = manifest["max_length"]
        removed = counted(truncated_tokens, "token")
        say(f"truncated {counted(rows_cut, 'row')} to trainer.max_length={limit}: {removed} removed")
    rows_shortened = sum(
        source.get("truncated", 0) for source in sources.values() if not source.get("truncated_tokens")
    )
    if rows_shortened:
        limit = manifest["max_length"]
        say(f"shortened {counted(rows_shortened, 'row')} to trainer.max_length={limit}: oldest turns dropped")
    for line in (*unread_lines(manifest), *_notes(manifest)):
        say(line)
    print_warnings(manifest)
    if training:
        _print_trained(manifest, directory)
    rate = sum(source.get("rows", 0) for source in sources.values()) / seconds
    fingerprint = manifest["fingerprint"][:16]
    say(
        f"data      {directory} written in {seconds:.1f} s ({counted(round(rate), 'row')}/s), fingerprint {fingerprint}"
    )
    say(f"report    {directory / 'report.html'}")


def print_warnings(manifest: Mapping[str, Any]) -> None:
    """Print the warnings about rows of prepared data."""
    for label, number, sentence in remark_sentences(manifest):
        if label == "warning":
            say(f"warning: {counted(number, 'row')}: {sentence}")


def _print_trained(manifest: Mapping[str, Any], directory: Path) -> None:
    """Print the number of tokens that carry loss, and of held-out examples."""
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    share = train["trained_share"]
    say(f"trained   {train['trained_tokens']:,} of {train['tokens']:,} training tokens carry loss ({share:.0%})")
    if warning := trained_share.unusual_share(manifest):
        say(f"warning: {warning} (sft inspect {directory} --worst lowest_share)")
    say(f"held out  {counted(validation['examples'], 'example')}{_held_out_note(manifest)}")


def _held_out_note(manifest: Mapping[str, Any]) -> str:
    """Return the held-out groups, and why fewer rows are held out than were selected or requested; or nothing."""
    dropped, requested = manifest["held_out_dropped"], manifest["inputs"]["mix"]["rules"]["val_rows"]
    groups = manifest["held_out_groups"].items()
    reasons = [f"{tag} {name}: {counted(number, 'example')}" for tag, names in groups for name, number in names.items()]
    reasons += [f"{number} more dropped: {reason}" for reason, number in dropped.items()]
    rows = manifest["splits"]["validation"]["rows"] + sum(dropped.values())
    if requested is not None and rows < requested:
        reasons.append(f"data.val_rows={requested}: rows with the same prompt, or of one group, stay together")
    too_few = manifest["inputs"]["mix"]["rules"]["val_fraction"] == Auto.auto.value and not rows
    if too_few and sum(source.get("used", 0) for source in manifest["sources"].values()) < ENOUGH:
        reasons.append(f"there are fewer than {ENOUGH} rows")
    return f" ({'; '.join(reasons)})" if reasons else ""


def unread_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return per source the unread columns and keys, and the ignored ones."""
    lines = []
    for name, source in manifest["sources"].items():
        for key, label in (("not_read", "not read "), ("ignored", "ignored  ")):
            if source[key]:
                lines.append(f"{label} {name}: {', '.join(source[key])}")
    return lines


def _notes(manifest: Mapping[str, Any]) -> Sequence[str]:
    """Return notes about the rows, one per line."""
    lines = []
    if number := manifest["unrolled_rows"]:
        lines.append(f"unrolled  {counted(number, 'row')}: one example per trained turn, because their history changes")
    if number := manifest["cut_documents"]:
        lines.append(f"cut       {counted(number, 'document')} longer than trainer.max_length became several examples")
    lines += [
        f"note      {counted(number, 'row')}: {sentence}"
        for label, number, sentence in remark_sentences(manifest)
        if label == "note"
    ]
    for token in manifest["unused_tokens"]:
        lines.append(f"unused    {token} of model.add_tokens is in no training example: its embeddings would not train")
    for name, source in manifest["mix"]["sources"].items():
        if source["passes"] > MAX_PASSES:
            passes = f"{source['passes']:.0f} times in an epoch"
            lines.append(f"repeated  {name} is seen {passes}: more than {MAX_PASSES} bring little")
    lines += [f"stage     {stage['name']} holds no example" for stage in manifest["stages"] if not stage["examples"]]
    return lines


def stage_changes(known: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> list[str]:
    """Return one line per stage: it is up to date, or the changes since the last preparation.

    Args:
        known: The inputs of the last preparation; None if there was none.
        inputs: The current inputs.
    """
    if known is None:
        return ["there is no earlier preparation here: every stage runs"]
    if known["version"] != inputs["version"]:
        return [f"{input_diff.THIS_VERSION} changed: every stage runs"]
    removed = [f"data.mix.{name}" for name in known["rows"] if name not in inputs["rows"]]
    lines, upstream = [], f"{', '.join(removed)} was removed" if removed else ""
    for stage, old, new in _stage_inputs(known, inputs):
        if stage == "encode" and len(known["clean"]) > len(inputs["clean"]):
            upstream = upstream or "clean.steps changed"
        if old == new:
            reason = "" if stage.startswith("rows ") else upstream
        else:
            reason = f"{', '.join(input_diff.changed_names(old, new))} changed" if old is not None else "it is new"
        lines.append(f"{stage:<24} {'runs again: ' + reason if reason else 'up to date'}")
        if reason and not stage.startswith("mix"):
            upstream = upstream or f"it depends on {stage}"
    return lines


def _stage_inputs(known: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[tuple[str, Any, Any]]:
    """Return the name of each stage, its old inputs (None if it is new), and its current ones."""
    empty: dict[str, Any] = {"rows": {}, "clean": [], "encode": {}, "mix": {}}
    common = [name for name in inputs["mix"]["order"] if name in known["rows"]]

    def only(key: str, part: Any, mix: Any = None) -> dict[str, Any] | None:
        return None if part is None else {**empty, "mix": mix or {}, key: part}

    def source_settings(values: Mapping[str, Any], *settings: str) -> dict[str, Any]:
        return {name: {key: values["mix"]["sources"][name][key] for key in settings} for name in common}

    def order(values: Mapping[str, Any]) -> list[str]:
        return [name for name in values["mix"]["order"] if name in common]

    stages: list[tuple[str, Any, Any]] = []
    for name, new in inputs["rows"].items():
        old = known["rows"].get(name)
        stages.append((f"rows {name}", only("rows", old and {name: old}), only("rows", {name: new})))
    for number, step in enumerate(inputs["clean"]):
        before = known["clean"][number : number + 1] or None
        old, new = (
            {"order": order(values), "sources": source_settings(values, "priority")} for values in (known, inputs)
        )
        stages.append((f"clean {step['filter']}", only("clean", before, old), only("clean", [step], new)))
    old, new = ({"sources": source_settings(values, "max_rows", "loss_weight")} for values in (known, inputs))
    stages.append(("encode", only("encode", known["encode"], old), only("encode", inputs["encode"], new)))
    stages.append(("mix", only("mix", known["mix"]), only("mix", inputs["mix"])))
    return stages
