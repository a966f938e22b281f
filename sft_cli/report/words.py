"""The words of `sft inspect`: which prepared directory, and which of its rows."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sft_cli.config.keys.valid_keys import nearest
from sft_cli.data.prepared import Side
from sft_cli.errors import SftError, raise_all

Worst = Literal["truncated", "lowest_share", "longest", "shortest", "random"]
KINDS: dict[Worst, str] = {
    "truncated": "most truncated",
    "lowest_share": "lowest trained share",
    "longest": "longest",
    "shortest": "shortest",
    "random": "random",
}
"""The word -> the kind of row the gallery knows."""
NAMES = ("prepared", "row", "where", "text", "worst", "source", "n", "split")
ELSEWHERE = {
    "prepared_dir": "prepared",
    "dir": "prepared",
    "directory": "prepared",
    "data": "prepared",
    "index": "row",
    "idx": "row",
    "id": "row",
    "grep": "text",
    "search": "text",
    "regex": "text",
    "contains": "text",
    "kind": "worst",
    "num": "n",
    "count": "n",
    "limit": "n",
    "dataset": "source",
    "side": "split",
}
"""What people type instead."""
SELECTIONS = ("row", "where", "text", "worst")
COMMAND = "sft inspect"


@dataclass(frozen=True, slots=True)
class Ask:
    """What to print.

    Attributes:
        prepared: The prepared directory.
        row: Number of an example in its split, or a row's place; None to choose otherwise.
        where: Part of a row's place; None to choose otherwise.
        text: Expression that is found in what the rows' tokens decode to; None to choose otherwise.
        worst: What the rows are extreme in; used where none of the others is given.
        source: Only rows of this source; None for all.
        n: How many rows at most.
        split: Which split; None looks for places in both, and for examples in train.
    """

    prepared: Path
    row: str | None = None
    where: str | None = None
    text: re.Pattern[str] | None = None
    worst: Worst = "random"
    source: str | None = None
    n: int = 3
    split: Side | None = None


def read(words: Sequence[str]) -> Ask:
    """The words understood.

    Raises:
        SftError: A word is no ``key=value``, unknown, given twice, without a value, or at odds with another.
    """
    given: dict[str, str] = {}
    mistakes: list[SftError] = []
    for word in words:
        key, equals, value = word.partition("=")
        if (mistake := _mistake(word, key, equals, value, given)) is not None:
            mistakes.append(mistake)
        given.setdefault(key, value)
    raise_all(mistakes)
    if "prepared" not in given:
        raise SftError(
            where=COMMAND,
            problem="no prepared directory is named",
            fix=f"{COMMAND} prepared=DIR, as sft prepare printed it",
        )
    if len(both := [name for name in SELECTIONS if name in given]) > 1:
        raise SftError(
            where=COMMAND, problem=f"{' and '.join(both)} each choose the rows", fix=f"keep one of {', '.join(both)}"
        )
    if "row" in given and (idle := [name for name in ("source", "n") if name in given]):
        raise SftError(
            where=idle[0], problem="it has no effect, row= names one row", fix=f"leave out {' and '.join(idle)}"
        )
    return Ask(
        prepared=Path(given["prepared"]).expanduser(),
        row=given.get("row"),
        where=given.get("where"),
        text=_pattern(given),
        worst=_one_of(given, "worst", get_args(Worst), "random"),
        source=given.get("source"),
        n=_number(given),
        split=_one_of(given, "split", get_args(Side), None),
    )


def _mistake(word: str, key: str, equals: str, value: str, given: dict[str, str]) -> SftError | None:
    """What is wrong with one word; None if nothing is."""
    if not equals:
        if (Path(word).expanduser() / "data.json").is_file():
            return _run(word)
        fix = f"write prepared={word}" if Path(word).expanduser().is_dir() else "write key=value, such as worst=longest"
        fix = f"write {word}=VALUE" if word in NAMES else fix
        return SftError(where="command line", problem=f"{word!r} is not of the form key=value", fix=fix)
    if key == "run":
        return _run(value)
    if key not in NAMES:
        meant = ELSEWHERE.get(key) or nearest(key, NAMES)
        fix = f"did you mean {meant}?" if meant else f"the keys are {', '.join(NAMES)}"
        return SftError(where=key, problem=f"{COMMAND} has no such key", fix=fix)
    if not value:
        return SftError(where=key, problem="it has no value", fix=f"write {key}=VALUE, or leave it out")
    if key in given:
        return SftError(where=key, problem="it is given twice", fix=f"keep one of the two, {key}={value}")
    return None


def _run(path: str) -> SftError:
    """Tell who names a run where its data lie."""
    file = Path(path).expanduser() / "data.json"
    prepared = json.loads(file.read_text(encoding="utf-8"))["prepared_dir"] if file.is_file() else "DIR"
    return SftError(
        where=f"run={path}",
        problem=f"{COMMAND} looks into prepared data, not into a run",
        fix=f"{COMMAND} prepared={prepared}",
    )


def _one_of(given: dict[str, str], key: str, choices: tuple[Any, ...], default: Any) -> Any:
    if key not in given:
        return default
    if (value := given[key]) not in choices:
        meant = nearest(value, choices)
        fix = f"did you mean {key}={meant}?" if meant else f"choose one of {', '.join(choices)}"
        raise SftError(where=f"{key}={value}", problem=f"it is none of {', '.join(choices)}", fix=fix)
    return value


def _pattern(given: dict[str, str]) -> re.Pattern[str] | None:
    """The expression of ``text=``; it does not tell capitals from small letters unless it says so itself."""
    if "text" not in given:
        return None
    try:
        return re.compile(given["text"], re.IGNORECASE)
    except re.error as error:
        raise SftError(
            where=f"text={given['text']}",
            problem=f"no regular expression: {error}",
            fix=f"text={shlex.quote(re.escape(given['text']))} finds it literally",
        ) from error


def _number(given: dict[str, str]) -> int:
    text = given.get("n", "3")
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise SftError(where=f"n={text}", problem="it is not a number of rows, 1 or more", fix="write n=3 for example")
    return int(text)
