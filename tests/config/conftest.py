"""These tests compose the same choices a thousand times: the merged values are cached."""

import copy
import json

import pytest

from sft_cli.config import compose as composing

_MERGED: dict[str, tuple] = {}
_COMPOSE_GROUPS = composing._compose_groups


def _compose_groups(groups, found, recipes, mistakes):
    """Merge as the package does; results that depend on files of a test are not cached."""
    if found.dirs:
        return _COMPOSE_GROUPS(groups, found, recipes, mistakes)
    contents = {name: [str(file), content] for name, (file, content) in recipes.items()}
    key, before = json.dumps([groups, contents], sort_keys=True, default=str), len(mistakes)
    if key not in _MERGED:
        merged = _COMPOSE_GROUPS(groups, found, recipes, mistakes)
        if len(mistakes) > before:
            return merged
        _MERGED[key] = merged
    values, files = _MERGED[key]
    return copy.deepcopy(values), files


@pytest.fixture(autouse=True)
def _cached(monkeypatch):
    monkeypatch.setattr(composing, "_compose_groups", _compose_groups)
