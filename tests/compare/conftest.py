"""Fixtures of the tests of ``sft judge``."""

import openai
import pytest


@pytest.fixture(scope="module")
def judge_client():
    """The HTTP client of all tests: each one reads the certificates of the system."""
    with openai.DefaultHttpxClient() as connections, pytest.MonkeyPatch.context() as patched:
        original = openai.OpenAI
        patched.setattr(openai, "OpenAI", lambda **settings: original(**settings, http_client=connections))
        yield
