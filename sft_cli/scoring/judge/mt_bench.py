"""The separate file of reference answers of MT-Bench.

The questions file has references of its own, which the suite ``mt_bench`` uses. The separate file is wrong in 13 of its
30 questions (FastChat, pull request 3158); published ratings used it. Ratings come from prompts of this package, so
they are not comparable with published ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.utils.text import json_or_none


def read_references(file: Path) -> Mapping[str, tuple[str, str]]:
    """Return the references of both turns by the id of the question.

    Raises:
        SftError: The file cannot be read, or a line has no ``question_id`` or no two turns.
    """
    where = f"--references {file}"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SftError(
            where=where, problem=f"cannot read it: {error}", fix="--references FILE of MT-Bench in UTF-8"
        ) from error
    found = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = json_or_none(line)
            turns = _turns(row)
            if turns is None:
                problem = "expected an object with question_id and choices of two turns"
                fix = 'a line such as {"question_id": 101, "choices": [{"turns": ["…", "…"]}]}'
                raise SftError(where=f"{file}:{number}", problem=problem, fix=fix)
            found[str(row["question_id"])] = turns
    return found


def _turns(row: Any) -> tuple[str, str] | None:
    """Return the two turns of a line; None if it has none."""
    try:
        first, second = row["choices"][0]["turns"]
        row["question_id"]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None
