"""Use one thread and no network, and find the real test material if it is available."""

import os

# Before torch is imported anywhere: tiny models run many times slower on two busy threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from hypothesis import settings

from tests.lanes import examples

# A busy machine may need long for one input.
settings.register_profile("project", max_examples=examples(100), deadline=None)
settings.load_profile("project")

ROOT = Path(__file__).resolve().parents[1]
SLOW_CASES = ROOT / "tests" / "slow_cases.txt"
"""Tests and cases of parametrised tests that only .ci/nightly runs; tests/slow_cases.py adds to it."""


@pytest.fixture
def material_dir() -> Path:
    """Real tokenizers, templates, models and data; a test that asks for them is skipped where they are absent."""
    folder = ROOT.parent / "shared" / "material"
    if not folder.is_dir():
        pytest.skip("../shared/material is absent")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow the cases that ``every_change`` does not name, and those that tests/slow_cases.txt lists."""
    listed = set(SLOW_CASES.read_text(encoding="utf-8").splitlines())
    for item in items:
        marker = item.get_closest_marker("every_change")
        unnamed = marker is not None and not any(f"[{case}]" in item.name for case in marker.args)
        if unnamed or item.nodeid in listed:
            item.add_marker(pytest.mark.slow)
