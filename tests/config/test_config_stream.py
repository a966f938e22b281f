"""Errors in the settings of streamed sources."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import SftError


@pytest.mark.parametrize(
    ("words", "problem", "fix"),
    [
        (
            ["data.mix.a.stream=true"],
            "data.mix.a.stream is true, but data.mix.a.max_rows is not set: a stream is read up to a number of rows",
            "set data.mix.a.max_rows=100000, or data.mix.a.stream=false",
        ),
        (
            ["data.mix.a.shuffle_buffer=10"],
            "data.mix.a.shuffle_buffer would have no effect: a is not streamed",
            "set data.mix.a.stream=true, or remove data.mix.a.shuffle_buffer",
        ),
    ],
)
def test_mistakes(words, problem, fix):
    with pytest.raises(SftError) as caught:
        compose(["data.mix.a.path=a.jsonl", *words])
    assert (caught.value.problem, caught.value.fix) == (problem, fix)


def test_valid_keys_have_no_errors():
    words = [
        "data.mix.a.path=a.jsonl",
        "data.mix.a.stream=true",
        "data.mix.a.max_rows=5",
        "data.mix.a.shuffle_buffer=2",
    ]
    assert compose(words).data.mix["a"].shuffle_buffer == 2
