"""Configs with wrong values are translated or refused with one error; no key gets lost."""

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft_cli.errors import SftError
from sft_cli.importing.foreign_config import ForeignConfig
from sft_cli.importing.import_config import translate
from sft_cli.importing.read_config import read_foreign
from sft_cli.importing.recipe import recipe_text

CONFIGS = sorted(file for file in (Path(__file__).parent / "configs").iterdir() if file.is_file())
VALUES: list[Any] = [
    None, True, False, 0, -1, 3, 0.5, 1e9, float("inf"), "", "x", "1e-4", "a,b", "???", "{{ x }}", "$x[", [], ["a"],
    [1], [{}], [None], [["a"]], {}, {"a": 1}, {"path": "p"}, [{"path": "p", "type": 5}], [{"path": None}],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield (*path, name)
        yield from places(entry, (*path, name))


def changed(config: ForeignConfig, path: tuple[Any, ...], value: Any) -> ForeignConfig:
    """Return the config with one value replaced."""
    values: Any = copy.deepcopy(dict(config.values))
    at = values
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return replace(config, values=values)


def check(config: ForeignConfig, gpus: int | None, rows: int | None) -> bool:
    """Translate a config; return whether it was refused. Every key must have an entry."""
    try:
        t = translate(config, gpus=gpus, rows=rows, row_tokens=rows)
        recipe_text(t, Path("recipe.yaml"))
    except SftError as error:
        return bool(error.fix)
    named = {key.partition(".")[0].partition(" ")[0] for entry in t.entries for key in entry.keys}
    assert [key for key in config.values if key not in named] == []
    return False


def test_a_wrong_value_is_translated_or_refused():
    chance = random.Random(0)
    refused = 0
    for file in CONFIGS:
        config = read_foreign(str(file), None)
        found = list(places(dict(config.values)))
        for path in chance.sample(found, min(12, len(found))):
            for value in chance.sample(VALUES, 3):
                refused += check(changed(config, path, value), chance.choice([None, 2]), chance.choice([None, 100]))
    assert refused > 5


@pytest.mark.slow
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_value_of_every_key(file):
    config = read_foreign(str(file), None)
    for path in places(dict(config.values)):
        for value in VALUES:
            check(changed(config, path, value), None, None)
            check(changed(config, path, value), 2, 1000)
