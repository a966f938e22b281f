"""What the page of a run shows apart from its curves, read from small files and the ends of long ones."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.board.run_row import read_session, saved_progress
from sft_cli.board.tails import JsonLinesTail, Line, read_last_lines
from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.config.keys.valid_keys import find_key
from sft_cli.config.redaction import redact_secrets, redact_values
from sft_cli.config.validate import to_plain
from sft_cli.data.prepared import read_manifest
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.utils.mappings import flatten

REPORT = "report.html"
TAIL_BYTES = 1 << 18
"""Bytes at the end of samples.jsonl, spikes.jsonl and console.log that are read."""
MAX_CONSOLE_LINES = 300
MAX_SAMPLES = 400
MAX_SPIKES = 100
MAX_ROWS = 3
"""Rows of a spike that are shown, the longest."""
ABSENT = "–"


def run_details(run: RunDir) -> dict[str, Any]:
    """Return settings, environment, samples, checkpoints, spikes, console output and reports of a run."""
    console, cut = read_last_lines(run.console, TAIL_BYTES, MAX_CONSOLE_LINES)
    command, _ = read_session(run)
    return {
        "command": command,
        "config": settings(run),
        "environment": dict(_flat(_json(run.environment))),
        "samples": samples(run),
        "checkpoints": checkpoints(run),
        "spikes": spikes(run),
        "end": _json(run.end),
        "console": {"lines": console, "cut": cut},
        "reports": report_links(run),
    }


def report_links(run: RunDir) -> dict[str, bool]:
    """Return whether a run has a page of evaluations, and whether its data have a report."""
    return {"evaluation": eval_report(run) is not None, "data": data_report(run) is not None}


def settings(run: RunDir) -> list[dict[str, Any]]:
    """Return the settings of a run: key, value, default, and origin.

    The origin is ``command line`` if the first command line names the key; ``recipe`` if the value is not the default,
    so that a recipe, an option of a group or an automatic choice has set it; else ``default``.
    """
    typed = _typed_keys(read_session(run)[0])
    found = []
    for name, value in flat_config(run).items():
        key = find_key(name)
        default = to_plain(key.default) if key is not None else None
        is_default = key is not None and value == default
        section = name.split(".")[0]  # data=FILE, or an option of a group such as adapter=dora
        named = name in typed or (section in typed and not is_default)
        origin = "command line" if named else "default" if is_default else "recipe"
        found.append({"key": name, "value": value, "default": default, "origin": origin})
    return found


def flat_config(run: RunDir) -> dict[str, Any]:
    """Return the settings of a run by dotted key, secrets masked; empty if the file is damaged."""
    try:
        return dict(_flat(redact_values(read_yaml(run.config))))
    except (SftError, OSError):
        return {}


def config_difference(first: RunDir, second: RunDir) -> list[dict[str, Any]]:
    """Return the keys whose values differ between two runs, with both values."""
    old, new = flat_config(first), flat_config(second)
    keys = sorted({*old, *new})
    return [{"key": key, "first": old.get(key), "second": new.get(key)} for key in keys if old.get(key) != new.get(key)]


def samples(run: RunDir) -> list[dict[str, Any]]:
    """Return the last answers by prompt: where, prompt, expected, and the answers by step."""
    by_place: dict[str, dict[str, Any]] = {}
    lines, _ = JsonLinesTail(run.samples, TAIL_BYTES).read()
    for line in lines[-MAX_SAMPLES:]:
        entry = by_place.setdefault(
            str(line.get("where", "")),
            {"where": line.get("where", ""), "prompt": line.get("prompt", ""), "expected": line.get("expected", "")},
        )
        answer = {name: line.get(name) for name in ("step", "answer", "stopped")}
        entry.setdefault("answers", []).append(answer)
    return list(by_place.values())


def checkpoints(run: RunDir) -> list[dict[str, Any]]:
    """Return the saved steps, the newest first: step, time, bytes, and whether it is the best one."""
    directories = checkpoint_dir.list_checkpoints(run.checkpoints)
    best = saved_progress(directories[-1]).get("best_step") if directories else None
    found = []
    for directory in reversed(directories):
        try:
            sizes = [file.stat().st_size for file in directory.iterdir() if file.is_file()]
            written = directory.stat().st_mtime
        except OSError:
            continue  # the run removed it meanwhile
        step = checkpoint_dir.checkpoint_step(directory)
        found.append({"step": step, "written": written, "bytes": sum(sizes), "best": step == best})
    return found


def spikes(run: RunDir) -> list[Line]:
    """Return the last steps with a loss spike or a loss that is not finite, the newest first."""
    lines, _ = JsonLinesTail(run.spikes, TAIL_BYTES).read()
    found = lines[-MAX_SPIKES:][::-1]
    return [{**line, "rows": (line.get("rows") or [])[:MAX_ROWS]} for line in found]


def eval_report(run: RunDir) -> Path | None:
    """Return the page of evaluations of a run; None if there is none or it is a link to elsewhere."""
    file = run.eval / REPORT
    return file if file.is_file() and file.resolve().is_relative_to(run.path.resolve()) else None


def prepared_directory(run: RunDir) -> Path | None:
    """Return the prepared data of a run; None if it is gone or was prepared again with other content."""
    record = _json(run.data)
    if not isinstance(record.get("prepared_dir"), str):
        return None
    directory = Path(record["prepared_dir"])
    try:
        manifest = read_manifest(directory)
    except (SftError, OSError, ValueError):
        return None
    same = manifest is not None and manifest.get("fingerprint") == record.get("fingerprint")
    return directory if same else None


def data_report(run: RunDir) -> Path | None:
    """Return the report of the prepared data of a run; None if it is gone or is a link to elsewhere."""
    directory = prepared_directory(run)
    if directory is None:
        return None
    file = directory / REPORT
    return file if file.is_file() and file.resolve().is_relative_to(directory.resolve()) else None


def shown(value: Any) -> str:
    """Return a setting as text."""
    return ABSENT if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return nested values by dotted key; empty sections are values."""
    return list(flatten(values, keep_empty=True))


def _typed_keys(command: str) -> set[str]:
    """Return the keys that a command line sets."""
    try:
        words = shlex.split(redact_secrets(command))
    except ValueError:
        return set()
    return {word.partition("=")[0].lstrip("+~") for word in words if "=" in word and not word.startswith("-")}


def _json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it does not exist or is damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
