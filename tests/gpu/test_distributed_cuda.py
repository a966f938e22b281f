"""Several processes on CUDA devices over NCCL have the losses of one process, with DDP and FSDP."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]
WORDS = ("recipe=quickstart", "trainer.max_steps=6", "trainer.dtype=float32", "eval.compare_after_training=false")


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Return a function from a number of processes and overrides to the losses of a run."""
    place = tmp_path_factory.mktemp("together")

    def train(size, *words):
        run = place / "-".join([str(size), *words]).replace("=", "_")
        command = [sys.executable, "-m", "sft_cli", "train", *WORDS, *words, f"launcher.nproc={size}", f"run_dir={run}"]
        done = subprocess.run(command, env={**os.environ, "SFT_HOME": str(place / "home")}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    return train


@pytest.mark.parametrize("distributed", ["ddp", "fsdp", "fsdp_zero2", "fsdp_offload"])
@pytest.mark.parametrize(
    "words", [(), ("quant=nf4",), ("adapter=none", "trainer.lr=1e-3")], ids=["lora", "nf4", "full"]
)
def test_losses_of_two_gpus_equal_those_of_one(losses, distributed, words):
    """TF32 is allowed on GPUs, so that losses differ in their fourth decimal."""
    assert losses(2, *words, f"distributed={distributed}") == pytest.approx(losses(1, *words), abs=5e-3)
