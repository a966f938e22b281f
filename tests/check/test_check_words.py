"""Options of ``sft check``, and the known GPUs."""

import pytest

from sft_cli.check.gpus import GPUS, gpu_from_driver_name, parse_gpu
from sft_cli.check.options import CheckOptions, row_limit
from sft_cli.errors import SftError


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
    assert parse_gpu(word).memory == memory


def test_another_name_is_none():
    with pytest.raises(SftError, match="--gpu rtx9: neither a known card nor a size\n  fix: --gpu 24GB, or one of"):
        parse_gpu("rtx9")


def test_every_card_is_found_under_the_name_of_its_driver():
    drivers = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "NVIDIA A10G": "a10g",
        "Tesla T4": "t4",
    }
    assert {name: gpu_from_driver_name(name).name for name in drivers} == drivers
    assert gpu_from_driver_name("AMD Radeon") is None
    assert set(drivers.values()) <= set(GPUS)


def test_rows_are_a_number_or_all():
    assert (row_limit("500"), row_limit("1_000"), row_limit("all")) == (500, 1000, None)
    with pytest.raises(SftError, match="--rows none: not a number of rows\n  fix: did you mean --rows all\\?"):
        row_limit("none")
    with pytest.raises(SftError, match="did you mean --rows 5\\?"):
        row_limit("5.0")


def test_the_speed_is_given_once():
    with pytest.raises(SftError, match="the speed is given twice"):
        CheckOptions(tokens_per_second=5.0, like="RUN")
