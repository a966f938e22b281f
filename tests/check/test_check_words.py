"""The command's own words, and the cards it knows."""

import pytest

from sft_cli.check.asked import Asked, asked
from sft_cli.check.gpus import CARDS, card, named_like
from sft_cli.errors import Mistakes, SftError


def test_its_own_words_are_split_off_and_the_rest_is_the_runs():
    own, rest = asked(["recipe=quickstart", "gpu=h100", "rows=all", "price=2.5", "tokens_per_second=3_000", "like="])
    assert own == Asked(CARDS["h100"], None, 3000.0, 2.5, None)
    assert rest == ["recipe=quickstart", "like="]
    assert asked([]) == (Asked(None, 500, None, None, None), [])


@pytest.mark.parametrize(
    ("word", "memory"),
    [
        ("24GB", 24 * 10**9),
        ("24", 24 * 10**9),
        ("0.5 gb", 5 * 10**8),
        ("16GiB", 16 * 2**30),
        ("NVIDIA A100", 80 * 10**9),
    ],
)
def test_a_size_or_a_name_is_a_card(word, memory):
    assert card(word).memory == memory


def test_every_card_is_found_under_the_name_of_its_driver():
    drivers = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "NVIDIA A10G": "a10g",
        "Tesla T4": "t4",
    }
    assert {name: named_like(name).name for name in drivers} == drivers
    assert named_like("AMD Radeon") is None


def test_all_mistakes_are_told_at_once():
    words = ["gpu=rtx9", "rows=-1", "price=free", "tokens_per_second=0", "like=RUN"]
    with pytest.raises(Mistakes) as caught:
        asked(words)
    assert [(error.where, error.problem) for error in caught.value.errors] == [
        ("gpu=rtx9", "neither a known card nor a size"),
        ("tokens_per_second=0", "no positive number"),
        ("price=free", "no positive number"),
        ("rows=-1", "no number of rows"),
    ]
    with pytest.raises(SftError, match="the speed is given twice"):
        asked(["tokens_per_second=5", "like=RUN"])
