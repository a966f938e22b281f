"""Advice if the checkpoints do not fit on the disk: settings that make them fit, and none that are already set."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.train.setup import preflight
from sft_cli.train.setup.preflight import disk_problem

GIB = 2**30


class Needed:
    """Checkpoints of 1 GiB."""

    parameters, optimizer_state = GIB // 2, GIB // 2


@pytest.mark.parametrize(
    ("words", "free", "fix"),
    [
        (["trainer.keep_checkpoints=5"], 4.5, "trainer.keep_checkpoints=2, or run_dir=DIR on a disk with 7.0 GiB free"),
        (["trainer.keep_checkpoints=5"], 3.0, "trainer.keep_checkpoints=1, or run_dir=DIR on a disk with 7.0 GiB free"),
        (["trainer.keep_checkpoints=1"], 2.5, "run_dir=DIR on a disk with 3.0 GiB free"),
        (
            ["trainer.keep_checkpoints=1", "adapter=none"],
            2.5,
            "adapter=lora, whose checkpoints are small, or run_dir=DIR on a disk with 3.0 GiB free",
        ),
    ],
)
def test_disk_problem_advice(monkeypatch, tmp_path, words, free, fix):
    monkeypatch.setattr(preflight, "free_bytes", lambda directory: int(free * GIB))
    error = disk_problem(compose(["recipe=quickstart", *words]), Needed(), tmp_path)
    assert error is not None
    assert error.fix == fix


def test_no_problem_if_the_checkpoints_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "free_bytes", lambda directory: 3 * GIB)
    assert disk_problem(compose(["recipe=quickstart", "trainer.keep_checkpoints=1"]), Needed(), tmp_path) is None
