"""Hydra composes the same choices a thousand times in these tests: what it made of them is kept."""

import copy
import json

import pytest

from sft_cli.config import compose as composing

_MADE: dict[str, tuple] = {}
_LISTED: dict[str, tuple] = {}
_FILES = composing._merged_files
_COMPOSE_GROUPS = composing._compose_groups


def _key(choices, found, recipes) -> str | None:
    """What decides the result, contents of the recipes among it; None where files of a test decide."""
    if found.dirs:
        return None
    return json.dumps(
        [choices, {name: [str(file), file.read_text()] for name, file in recipes.items()}], sort_keys=True
    )


def _compose_groups(groups, found, recipes, mistakes):
    key, before = _key(groups, found, recipes), len(mistakes)
    if key in _MADE:
        values, overrides = _MADE[key]
        return copy.deepcopy(values), lambda: _files(overrides, found, recipes)
    values, files = _COMPOSE_GROUPS(groups, found, recipes, mistakes)
    if key is not None and len(mistakes) == before and files is not tuple:
        _MADE[key] = copy.deepcopy(values), files.args[0]
        return values, lambda: _files(files.args[0], found, recipes)
    return values, files


def _files(overrides, found, recipes):
    key = _key(overrides, found, recipes)
    if key not in _LISTED:
        listed = tuple(_FILES(overrides, found, recipes))
        if key is None:
            return listed
        _LISTED[key] = listed
    return _LISTED[key]


@pytest.fixture(autouse=True)
def _kept(monkeypatch):
    monkeypatch.setattr(composing, "_compose_groups", _compose_groups)
    monkeypatch.setattr(composing, "_merged_files", _files)
