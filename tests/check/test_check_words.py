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
def test_size_or_name_selects_a_gpu(word, memory):
    assert parse_gpu(word).memory == memory


def test_unknown_gpu_is_refused():
    with pytest.raises(SftError, match="--gpu rtx9: neither a known card nor a size\n  fix: --gpu 24GB, or one of"):
        parse_gpu("rtx9")


def test_every_gpu_is_found_by_its_driver_name():
    drivers = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "NVIDIA A10G": "a10g",
        "Tesla T4": "t4",
    }
    assert {name: gpu_from_driver_name(name).name for name in drivers} == drivers
    assert gpu_from_driver_name("AMD Radeon") is None
    assert set(drivers.values()) <= set(GPUS)


def test_rows_option_is_a_number_or_all():
    assert (row_limit("500"), row_limit("1_000"), row_limit("all")) == (500, 1000, None)
    with pytest.raises(SftError, match="--rows none: not a number of rows\n  fix: did you mean --rows all\\?"):
        row_limit("none")
    with pytest.raises(SftError, match="did you mean --rows 5\\?"):
        row_limit("5.0")


def test_speed_given_twice_is_refused():
    with pytest.raises(SftError, match="the speed is given twice"):
        CheckOptions(tokens_per_second=5.0, like="RUN")
