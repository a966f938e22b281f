"""The config of another tool as it was read, and the tools that are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = {"axolotl": "axolotl", "llama-factory": "LLaMA-Factory", "trl": "TRL"}
"""Value of ``--from`` -> name of the tool."""


@dataclass(frozen=True, slots=True)
class ForeignConfig:
    """The keys of a config of another tool.

    Attributes:
        name: The file, or ``command line``, for messages.
        values: Its keys and values.
        tool: The tool, where the file itself shows it (a command line does), else None.
        folder: The directory of the file, in which files that it names are searched, too.
        gpus: Number of processes, where the file holds it.
        data_info: The content of ``dataset_info.json`` (LLaMA-Factory); None where there is none.
        data_dir: The directory of ``dataset_info.json``.
    """

    name: str
    values: Mapping[str, Any]
    tool: str | None = None
    folder: Path = field(default_factory=Path)
    gpus: int | None = None
    data_info: Mapping[str, Any] | None = None
    data_dir: Path | None = None
