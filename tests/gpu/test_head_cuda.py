"""The head and the objective on a CUDA device: results of the CPU, no wait for the device, bounded memory."""

from dataclasses import replace

import pytest
import torch

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.head.chunked_loss import LossInputs, OutputHead, weighted_loss
from sft_cli.model.head.logits import LogitsRescaling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
POSITIONS, WIDTH, VOCABULARY = 300, 128, 5000
OBJECTIVES = [LossConfig(), LossConfig(label_smoothing=0.1, z_loss=0.01), LossConfig(dft=True)]


def pair(loss, *, dtype=torch.float32, trained=False, cap=None, chunk=64):
    """Return head and task on the CPU in float32 and on the device in ``dtype``."""
    torch.manual_seed(0)
    module = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).to(dtype).float().requires_grad_(trained)
    states = torch.randn(POSITIONS, WIDTH).to(dtype).float()
    targets, weights = torch.randint(VOCABULARY, (POSITIONS,)), torch.rand(POSITIONS) / POSITIONS
    cuda = torch.nn.Linear(WIDTH, VOCABULARY, bias=False, device="cuda", dtype=dtype).requires_grad_(trained)
    cuda.load_state_dict(module.state_dict())
    rescale = LogitsRescaling(factor=0.5, cap=cap)
    here = LossInputs(states.requires_grad_(), targets, weights, loss)
    there = LossInputs(
        states.detach().to("cuda", dtype).requires_grad_(), targets.to("cuda"), weights.to("cuda"), loss
    )  # fmt: skip
    return (OutputHead(module, rescale, chunk), here), (OutputHead(cuda, rescale, chunk), there)


@pytest.mark.parametrize("loss", OBJECTIVES, ids=["plain", "smoothing-z", "dft"])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)])
def test_the_numbers_of_the_cpu(loss, cap, trained, dtype, tolerance):
    (head, task), (other_head, other) = pair(loss, dtype=dtype, trained=trained, cap=cap)
    expected = torch.autograd.grad(weighted_loss(head, task)[0], [task.states, *head.trained])
    total = weighted_loss(other_head, other)[0]
    # Scaled like GradScaler would: float16's smallest number is 6e-8.
    found = torch.autograd.grad(total * 1024, [other.states, *other_head.trained])

    torch.testing.assert_close(total.cpu(), weighted_loss(head, task)[0], rtol=tolerance, atol=0)
    for own, wanted in zip(found, expected, strict=True):
        assert (own.float().cpu() / 1024 - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_waits_for_the_device(trained):
    _, (head, task) = pair(
        LossConfig(label_smoothing=0.1, z_loss=0.01, dft=True), dtype=torch.bfloat16, trained=trained
    )
    weighted_loss(head, task)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        weighted_loss(head, task)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_peak_does_not_grow_with_the_positions():
    """Twice the positions need twice the states and no more logits."""
    peaks = []
    for repeat in (1, 2):
        _, (head, task) = pair(LossConfig(), dtype=torch.bfloat16)
        states = task.states.detach().repeat(repeat, 1).requires_grad_()
        task = replace(
            task, states=states, targets=task.targets.repeat(repeat), weights=task.weights.repeat(repeat)
        )  # fmt: skip
        weighted_loss(head, task)[0].backward()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        weighted_loss(head, task)[0].backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)

    assert peaks[1] - peaks[0] < 20 * POSITIONS * WIDTH
    assert peaks[1] < 64 * VOCABULARY * 16
