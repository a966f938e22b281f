"""The record of an export, ``export.json``: the hash of every file, and the base that the run was trained on."""

import json
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config import paths
from sft_cli.config.schema.config import Config
from sft_cli.merge.card_settings import public_name
from sft_cli.run_dir import RunDir
from sft_cli.utils.hashing import sha256_of_file

NAME = "export.json"
WEIGHTS = "*.safetensors"


def describe_base(config: Config) -> dict[str, Any]:
    """Return the name, the revision and the hashes of the weight files of a run's base.

    The hashes are null if the base is not a local directory: the revision identifies a model of the hub.
    """
    assert config.model.path is not None
    directory = Path(paths.resolve(config.model.path))
    hashes = {file.name: sha256_of_file(file) for file in sorted(directory.glob(WEIGHTS))}
    return {
        "name": public_name(config.model.path),
        "revision": config.model.revision,
        "sha256": hashes or None,
    }


def write_record(directory: Path, run: RunDir, config: Config, target: str, dtype: str, **details: Any) -> None:
    """Write the record of the files in ``directory``, which must be complete.

    Args:
        directory: The exported directory.
        run: The run.
        config: Its config.
        target: The target of the export.
        dtype: Dtype of the weights.
        details: Further entries.
    """
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    record = {
        "sft_cli": __version__,
        "target": target,
        "dtype": dtype,
        "base": describe_base(config),
        "data_fingerprint": run.read_json(run.manifest)["fingerprint"],
        **details,
        "sha256": {file.relative_to(directory).as_posix(): sha256_of_file(file) for file in files},
    }
    (directory / NAME).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(directory: Path) -> dict[str, Any] | None:
    """Return the record in a directory; None without one."""
    file = directory / NAME
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
