"""Small real runs of the quickstart, and readers of their run directories."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sft_cli.run_dir import RunDir

SETTINGS = [
    "recipe=quickstart",
    "trainer.max_steps=12",
    "trainer.examples_per_step=8",
    "trainer.save_every=3",
    "trainer.keep_checkpoints=2",
    "speed.threads=1",
    "data.val_fraction=0",
    "data.mix.quickstart.validation_path=null",
    "data.mix.quickstart.max_rows=200",
    "eval.compare_after_training=false",
]
"""Twelve steps, a checkpoint every third, nothing evaluated."""
SAVE_EVERY, STEPS = 3, 12
MEASURED = ("seconds", "tokens_per_second", "memory", "at")
"""Fields of a step that differ between two equal runs."""


def words(directory: Path, *overrides: str) -> list[str]:
    """Return the words of ``sft train`` for a new run."""
    return ["train", *SETTINGS, *overrides, f"run_dir={directory}"]


def steps(run: RunDir) -> list[dict[str, Any]]:
    """Return the recorded steps without measured times; an incomplete last line is ignored."""
    if not run.metrics.is_file():
        return []
    found = []
    for line in run.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values = json.loads(line)
            found.append({name: value for name, value in values.items() if name not in MEASURED})
    return [line for line in found if "grad_norm" in line]


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory, by relative name."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def lost_bytes(run: RunDir, straight: RunDir) -> int:
    """Return how many bytes of a finished run's adapter and steps differ from the undisturbed run."""
    lost = sum(
        (straight.adapter / name).stat().st_size
        for name, digest in digests(straight.adapter).items()
        if digests(run.adapter).get(name) != digest
    )
    mine, wanted = steps(run), steps(straight)
    there = [line in mine for line in wanted]
    return lost + sum(len(json.dumps(line)) for line, found in zip(wanted, there, strict=True) if not found)


def whole(checkpoint: Path) -> bool:
    """Return whether every file of a checkpoint matches its manifest."""
    manifest = checkpoint / "manifest.json"
    if not manifest.is_file():
        return False
    return all(digests(checkpoint).get(name) == digest for name, digest in json.loads(manifest.read_text()).items())


def unfinished(run: RunDir) -> list[str]:
    """Return the names of temporary files and directories that remain."""
    return sorted(path.name for path in run.path.rglob(".*") if path.name != ".lock")
