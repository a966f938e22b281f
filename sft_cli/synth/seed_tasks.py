"""The seed tasks of ``self_instruct``: those of the package, written for it, or a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.utils.hashing import blake2b_of_text

SHIPPED = Path(__file__).parent / "seed_tasks.jsonl"
FIELDS = ("instruction", "input", "output", "is_classification")
"""Fields of a line; ``input`` may be empty."""
FEWEST = 2
"""Fewest seed tasks of a file."""


@dataclass(frozen=True, slots=True)
class SeedTask:
    """A task that people wrote.

    Attributes:
        instruction: What to do.
        input: What to do it with; empty if the instruction is complete.
        output: The answer.
        is_classification: Whether the answer is one of a small, fixed set of labels.
    """

    instruction: str
    input: str
    output: str
    is_classification: bool

    @property
    def id(self) -> str:
        """Its id: a digest of the instruction."""
        return "seed-" + blake2b_of_text(self.instruction)[:12]

    def values(self) -> dict[str, Any]:
        """Return the fields, for prompts."""
        return asdict(self)


def load_seed_tasks(path: str | None) -> list[SeedTask]:
    """Return the seed tasks of a file, or those of the package.

    Raises:
        SftError: There is no such file, or a line is no seed task.
    """
    file = SHIPPED if path is None else Path(path)
    if not file.is_file():
        fix = "synth.self_instruct.seeds=FILE, or remove it to use the seed tasks of the package"
        raise SftError(where="synth.self_instruct.seeds", problem=f"there is no file {file}", fix=fix)
    lines = file.read_text(encoding="utf-8").splitlines()
    tasks = [_task(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len(tasks) < FEWEST:
        raise SftError(where=str(file), problem=f"{len(tasks)} seed tasks are too few", fix="write 20 or more")
    return tasks


def _task(line: str, where: str) -> SeedTask:
    """Return the seed task of a line."""
    form = json.dumps({"instruction": "…", "input": "", "output": "…", "is_classification": False}, ensure_ascii=False)
    try:
        values = json.loads(line)
    except ValueError as error:
        raise SftError(where=where, problem=f"the line is not JSON: {error}", fix=f"write {form}") from error
    kinds = (str, str, str, bool)
    if (
        not isinstance(values, dict)
        or set(values) != set(FIELDS)
        or not all(isinstance(values[name], kind) for name, kind in zip(FIELDS, kinds, strict=True))
        or not values["instruction"].strip()
        or not values["output"].strip()
    ):
        problem = f"a seed task has exactly the fields {', '.join(FIELDS)}, with an instruction and an output"
        raise SftError(where=where, problem=problem, fix=f"write {form}")
    return SeedTask(**values)
