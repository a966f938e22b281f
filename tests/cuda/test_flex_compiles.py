"""Flex attention compiles for the cards in use: every kernel, forward and backward, fits into their memory."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cuda_simulator.build import reason_to_skip

ROOT = Path(__file__).resolve().parents[2]
REASON = "triton is not installed: pip install triton" if find_spec("triton") is None else reason_to_skip()
SHORT, LONG, ONE = [50, 20], [170, 130, 33], [300]
CASES = {
    "gpt-oss": {"heads": [16, 2], "widths": [64, 64], "sinks": True, "window": 128, "rows": [LONG, [20], [60, 40]]},
    "gemma2-9b": {"heads": [16, 8], "widths": [256, 256], "softcap": 50.0, "rows": [LONG, SHORT, ONE, [9]]},
    "gemma2-27b": {"heads": [32, 16], "widths": [128, 128], "softcap": 50.0, "rows": [LONG, SHORT]},
    "latent": {"heads": [16, 16], "widths": [192, 128], "rows": [LONG, SHORT]},
    "wide-values": {"heads": [8, 8], "widths": [192, 192], "softcap": 30.0, "rows": [LONG]},
}
MAX_GRAPHS = 2
"""Rows of one block, and of several."""


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "9.0"])
def test_flex_attention_compiles(capability, tmp_path):
    """Short rows, wide heads and many lengths; the nightly lane runs it where Triton is installed."""
    environment = {
        **os.environ,
        "SIMULATED_CUDA_CAPABILITY": capability,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }
    command = [sys.executable, "-m", "tests.cuda_simulator.compile_flex", json.dumps(list(CASES.values()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))
    print(json.dumps(found, indent=1))
    assert {name: result["error"] for name, result in found.items()} == dict.fromkeys(CASES)
    assert {name: result["graphs"] for name, result in found.items()} == {
        name: min(MAX_GRAPHS, len(case["rows"])) for name, case in CASES.items()
    }
