"""A saved model to verify, and the run that it came from."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir

Kind = Literal["model", "adapter", "gguf"]
MARKERS: tuple[tuple[str, Kind], ...] = (
    ("adapter_config.json", "adapter"),
    ("config.json", "model"),
    ("*.gguf", "gguf"),
)
"""Files that tell the kind of a directory."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The header of a tensor: its shape and safetensors dtype."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Artefact:
    """A directory to verify.

    Attributes:
        directory: The directory.
        kind: A complete model, an adapter or a GGUF file.
        run: The run that it came from; None if it is unknown.
    """

    directory: Path
    kind: Kind
    run: RunDir | None

    @property
    def merge_fix(self) -> str:
        """The command that writes a plain model of the run."""
        return f"sft export {shlex.quote(str(self.run.path)) if self.run else 'RUN'} --to merged"

    def export_fix(self, target: str) -> str:
        """Return the command that exports the run to a target."""
        return self.merge_fix.removesuffix("merged") + target

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a parsed JSON file of the directory; None if it is missing or damaged."""
        try:
            return json.loads((self.directory / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def template(self) -> str | None:
        """Return the chat template of the directory; None without one."""
        file = self.directory / "chat_template.jinja"
        return file.read_text(encoding="utf-8") if file.is_file() else None


def open_artefact(path: Path, run: RunDir | None) -> Artefact:
    """Return the artefact in a directory, or that of a GGUF file.

    Args:
        path: The directory or the file.
        run: The run; None means the run directory that contains the path, if any.

    Raises:
        SftError: There is neither a model nor an adapter nor a GGUF file.
    """
    directory = path.parent if path.suffix == ".gguf" else path
    if run is None:
        parents = (parent for parent in directory.absolute().parents if (parent / "config.yaml").is_file())
        found = next(parents, None)
        run = None if found is None else RunDir(found)
    for pattern, kind in MARKERS:
        if next(directory.glob(pattern), None) is not None:
            return Artefact(directory, kind, run)
    raise SftError(
        where=str(path),
        problem="there is neither a model (config.json) nor an adapter (adapter_config.json) nor a GGUF file",
        fix="sft verify RUN, or a directory that sft merge or sft export wrote (sft runs lists the runs)",
    )


def read_tensors(directory: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the headers of all tensors in a directory, and a sentence for each file that cannot be read."""
    tensors: dict[str, Tensor] = {}
    problems = []
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118  it is no mapping
                    part = opened.get_slice(name)
                    tensors[name] = Tensor(tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read: {error}")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        problems += [f"{name} is missing" for name in sorted(shards) if not (directory / name).is_file()]
    return tensors, problems
