"""The tests of ``tests/gpu`` and ``sft train`` on a simulated card, each group in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_simulator.build import reason_to_skip

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    "simulator": ["tests/cuda/test_refusals.py"],
    "kernels": [f"tests/gpu/test_{name}_cuda.py" for name in ("attention", "prefetch", "head")],
    "model": [f"tests/gpu/test_{name}_cuda.py" for name in ("fused", "model")],
    "state": [f"tests/gpu/test_{name}_cuda.py" for name in ("memory", "optimizer")],
    "estimate": ["tests/gpu/test_step_memory_cuda.py"],
    "train": ["tests/gpu/test_train_cuda.py"],
}


LANES = [("simulator", "not slow"), ("kernels", "not slow")]
NIGHTLY = [
    pytest.param(*lane, marks=pytest.mark.slow)
    for lane in (
        ("model", "not slow"),
        ("state", "not slow"),
        ("estimate", "not slow"),
        ("train", "not slow"),
        ("train", "slow"),
        ("estimate", "slow"),
    )
]
"""One to six minutes each."""


@pytest.mark.skipif(reason_to_skip() is not None, reason=f"no simulated CUDA: {reason_to_skip()}")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("group", "lane"), [*LANES, *NIGHTLY])
def test_tests_pass_on_a_simulated_card(group, lane):
    lanes = f"gpu and ({lane})"
    command = [sys.executable, "-m", "tests.cuda_simulator", "pytest", "-q", "-m", lanes, "--durations=10"]
    done = subprocess.run([*command, *GROUPS[group]], cwd=ROOT, capture_output=True, text=True)

    print(done.stdout[-20000:])
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
