"""The estimate of a step's memory against the peak of whole steps."""

import pytest
import torch

from tests.gpu.step_memory import CASES, LEAST, MOST, measure

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
EVERY_CHANGE = "full recompute, shared prefix"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == EVERY_CHANGE else pytest.mark.slow) for name in CASES]
)
def test_the_peak_of_a_step_is_the_estimate(name):
    found = measure(CASES[name])
    assert LEAST < found.step_ratio < MOST, (found, found.ratio, found.step_ratio)
