"""`sft prepare`: read the sources of a config and write a directory of verified examples with a ledger of all rows."""

import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from sft_cli.clean import registry as filters
from sft_cli.config.paths import cache_home, resolve
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.data import prepared
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.prepare import (
    filter_stage,
    input_diff,
    pipeline,
    publish,
    stage_cache,
    summary,
)
from sft_cli.prepare import manifest as manifests
from sft_cli.prepare.model_template import check_template, load_tokenizer_and_template
from sft_cli.prepare.prepared_files import write_prepared_files
from sft_cli.report.page import write_report
from sft_cli.utils.atomic import apply_umask, write_atomic
from sft_cli.utils.disks import unused_path
from sft_cli.utils.hashing import json_digest


def prepare_data(config: Config, *, training: bool = True) -> PreparedData:
    """Prepare the data of a config, or open the directory that an earlier run with the same inputs wrote.

    ``training`` is False if the rows are only evaluated; the printed summary then says so.

    Raises:
        SftError: A source, template or row cannot be used; only finished stages remain, in the cache.
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
        summary.print_warnings(present)
        return prepared.open_prepared(directory)
    _check_target(directory, ours=present is not None)
    if present is not None:
        say(f"data      {directory} is prepared again: {input_diff.describe_changes(present['inputs'], inputs)}")
    check_template(config, tokenizer, template)
    filters.check_filters(filter_stage.resolve_scorer_model(config))
    stage_cache.evict_old()
    try:
        result = pipeline.run_stages(config, tokenizer, template, inputs)
    except KeyboardInterrupt:
        say("stopped   nothing was written but finished parts, in the cache; the same command continues after them")
        raise
    new = publish.temp_directory(directory)
    try:
        manifest = write_prepared_files(new, config, result, inputs, tokenizer, template)
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
    """Return the data that an earlier run prepared from the same inputs, wherever they are; None if there are none.

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
    """Return a line for each stage: whether it would run again, and which inputs changed since the last time."""
    _check_sources(config)
    tokenizer, template = load_tokenizer_and_template(config)
    inputs = manifests.preparation_inputs(config, tokenizer, template)
    present = prepared.read_manifest(_target_directory(config, manifests.inputs_fingerprint(inputs)))
    file = _last_inputs_file(config)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return summary.stage_changes(present["inputs"] if present else known, inputs)


def _check_sources(config: Config) -> None:
    if not config.data.mix:
        raise SftError(
            where="data.mix",
            problem="there is no data",
            fix="type data=local data.mix.local.path=rows.jsonl, or choose a recipe (sft recipes)",
        )


def _target_directory(config: Config, fingerprint: str) -> Path:
    """The directory for the prepared rows."""
    chosen = config.prepared_dir
    return Path(resolve(chosen)) if chosen else cache_home() / "prepared" / fingerprint[:16]


def _check_target(directory: Path, ours: bool) -> None:
    """Refuse a directory that cannot be created, or that contains files that sft prepare did not write."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not there.is_dir():
        problem = "it is a file" if there == directory else f"{there} is a file"
    elif there != directory:
        return
    elif ours and (unknown := prepared.unknown_files(directory)):
        problem = f"data have changed, and the directory to replace also holds {', '.join(unknown[:3])}"
    elif not ours and any(directory.iterdir()):
        problem = "the directory is not empty and was not written by sft prepare"
    else:
        return
    raise SftError(
        where=f"prepared_dir={directory}",
        problem=problem,
        fix=f"prepared_dir={shlex.quote(str(unused_path(directory)))}, or remove prepared_dir",
    )


def _last_inputs_file(config: Config) -> Path:
    """The file with the inputs of the last preparation of these sources."""
    names = {"mix": sorted(config.data.mix), "prepared_dir": config.prepared_dir, "directory": str(Path.cwd())}
    return cache_home() / "stages" / "last" / f"{json_digest(names)[:32]}.json"


def _save_inputs(config: Config, inputs: dict[str, Any]) -> None:
    """Write the inputs for ``explain_stages``."""
    file = _last_inputs_file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(inputs, ensure_ascii=False).encode())
