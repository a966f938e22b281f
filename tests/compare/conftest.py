"""Fixtures of the tests of ``sft judge``."""

import openai
import pytest

from tests.compare.helpers import write_run, write_suite


@pytest.fixture(scope="module")
def judge_client():
    """The HTTP client of all tests: each one reads the certificates of the system."""
    with openai.DefaultHttpxClient() as connections, pytest.MonkeyPatch.context() as patched:
        original = openai.OpenAI
        patched.setattr(openai, "OpenAI", lambda **settings: original(**settings, http_client=connections))
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pair(folder):
    """Two runs; the second has 30 of 100 items more right, 2 less."""
    a, b = write_run(folder, "a"), write_run(folder, "b", lr=0.002, weight=2)
    write_suite(a, {"exact": [1] * 40 + [0] * 60})
    write_suite(b, {"exact": [0] * 2 + [1] * 68 + [0] * 30})
    return a, b
