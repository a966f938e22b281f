"""The terms of the objective: by hand, against autograd, and with real models against plain transformers."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.head import chunked_loss as head_gradient
from sft_cli.model.head.chunked_loss import LossInputs, OutputHead, weighted_loss
from sft_cli.model.head.kl_reference import make_kl_reference
from sft_cli.model.head.logits import LogitsRescaling
from sft_cli.model.head.objective import loss_and_gradient, term_names
from tests.model.loss_helpers import SETTINGS, by_autograd


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # Logits log 3 and 0: p = 3/4, 1/4; L = log 4. The target is the second.
        pytest.param(LossConfig(), {"loss": math.log(4)}, id="nll"),
        pytest.param(
            LossConfig(label_smoothing=0.1),
            {"loss": 0.95 * math.log(4) + 0.05 * math.log(4 / 3), "smoothing": -0.05 * math.log(3)},
            id="label-smoothing",
        ),
        pytest.param(
            LossConfig(z_loss=0.5),
            {"loss": math.log(4) + 0.5 * math.log(4) ** 2, "z": 0.5 * math.log(4) ** 2},
            id="z-loss",
        ),
        pytest.param(LossConfig(dft=True), {"loss": math.log(4) / 4, "dft": math.log(4) / 4}, id="dft"),
        pytest.param(
            LossConfig(dft=True, label_smoothing=0.1),
            {
                "loss": (0.95 * math.log(4) + 0.05 * math.log(4 / 3)) / 4,
                "dft": math.log(4) / 4,
                "smoothing": -0.05 * math.log(3) / 4,
            },
            id="dft-of-smoothed",
        ),
        # The base has 1/2, 1/2: KL = 1/2 log(2/3) + 1/2 log 2.
        pytest.param(
            LossConfig(kl=2.0),
            {"loss": math.log(4) + math.log(4 / 3), "kl": math.log(4 / 3)},
            id="kl",
        ),
    ],
)
def test_objective_by_hand(loss, expected):
    scored = loss_and_gradient(
        torch.tensor([[math.log(3), 0.0]]), torch.tensor([1]), loss, torch.zeros(1, 2), gradient=False
    )
    found = dict(zip(term_names(loss), scored.values[:, 0].tolist(), strict=True))

    assert found == pytest.approx({"nll": math.log(4), **expected}, rel=1e-6)
    assert scored.gradient is None


def test_gradient_by_hand():
    """p minus one at the target; label smoothing moves e / V from the target to every token."""
    logits = torch.tensor([[math.log(3), 0.0]])
    plain = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig()).gradient
    smoothed = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig(label_smoothing=0.1)).gradient
    dft = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig(dft=True)).gradient

    torch.testing.assert_close(plain, torch.tensor([[0.75, -0.75]]))
    torch.testing.assert_close(smoothed, torch.tensor([[0.70, -0.70]]))
    torch.testing.assert_close(dft, torch.tensor([[0.1875, -0.1875]]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradient_equals_autograd(setting):
    loss = SETTINGS[setting]
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).requires_grad_()
    base = 5 * torch.randn(7, 50, generator=generator) if loss.kl else None
    targets = torch.randint(50, (7,), generator=generator)
    expected = by_autograd(logits, targets, loss, base)
    expected.sum().backward()
    scored = loss_and_gradient(logits.detach().clone(), targets, loss, None if base is None else base.clone())
    found = dict(zip(term_names(loss), scored.values, strict=True))

    torch.testing.assert_close(found["loss"], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored.gradient, logits.grad, rtol=0, atol=1e-5 * logits.grad.abs().max().item())
    parts = [values for name, values in found.items() if name not in ("loss", "dft" if not loss.dft else "nll")]
    torch.testing.assert_close(found["loss"], torch.stack(parts).sum(0), rtol=1e-6, atol=1e-6)


def test_loss_of_tokens_with_zero_probability():
    """log p of -200 is beyond float32's probabilities, but not beyond its logarithms."""
    scored = loss_and_gradient(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), LossConfig(z_loss=1e-4))
    assert scored.values[1].item() == 200.0
    assert torch.isfinite(scored.values).all()
    assert torch.isfinite(scored.gradient).all()


def head_of(width, vocabulary, *, trained=False, bias=False, cap=None, factor=1.0, divisor=1.0, chunk=1024):
    torch.manual_seed(0)
    module = torch.nn.Linear(width, vocabulary, bias=bias).requires_grad_(trained)
    return OutputHead(module, LogitsRescaling(factor, divisor, cap), chunk)


def task_of(number, width, vocabulary, loss, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(number, width, generator=generator).to(dtype).requires_grad_()
    base = torch.randn(number, width, generator=generator).to(dtype) if loss.kl else None
    targets = torch.randint(vocabulary, (number,), generator=generator)
    weights = torch.rand(number, generator=generator) / 100
    stays = make_kl_reference(AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))) if loss.kl else None
    return LossInputs(states, targets, weights, loss, base, stays)


SMALL = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
@pytest.mark.parametrize("setting", ["plain", "every"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"factor": 0.3},
        {"divisor": 3.0},
        {"cap": 2.0},
        {"cap": 2.0, "trained": True},
        {"trained": True},
        {"trained": True, "bias": True, "divisor": 3.0},
    ],
    ids=lambda options: "-".join(options) or "frozen",
)
def test_chunked_loss_equals_the_whole_head(options, setting, chunk):
    """Loss and gradients of states, weight and bias for nine positions, in chunks of one to nine."""
    loss, head = SETTINGS[setting], head_of(16, 40, chunk=chunk, **options)
    task = task_of(9, 16, 40, loss)
    logits = head.rescale(head.module(task.states))
    base = None if task.base is None else head.rescale(head.module(task.base)).detach()
    inputs = [task.states, *head.trained]
    reference = (by_autograd(logits, task.targets, loss, base) * task.weights).sum()
    expected = torch.autograd.grad(3 * reference, inputs)
    total, values = weighted_loss(head, task)
    found = torch.autograd.grad(3 * total, inputs)

    torch.testing.assert_close(total, reference, rtol=1e-5, atol=0)
    torch.testing.assert_close(values[0] @ task.weights, reference.detach(), rtol=1e-5, atol=0)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("trained", [False, True])
def test_small_weights_in_float16(trained):
    """Weights include the divisor of a step; their products with small probabilities are below float16's range."""
    head = head_of(16, 3000, trained=trained, chunk=4)
    task = task_of(9, 16, 3000, LossConfig())
    task = LossInputs(task.states, task.targets, task.weights * 1e-4, task.loss)
    expected = torch.autograd.grad(weighted_loss(head, task)[0], task.states)[0]
    half = LossInputs(task.states.detach().half().requires_grad_(), task.targets, task.weights, task.loss)
    total = weighted_loss(OutputHead(head.module.half(), head.rescale, 4), half)[0]
    found = torch.autograd.grad(total * 65536.0, half.states)[0].float() / 65536.0

    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(dft=True)], ids=["plain", "dft"])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("trained", [False, True])
def test_small_derivatives_in_float16(trained, cap, loss):
    """Gradients in float16 equal those in float32 to 0.5% in norm, even for tiny derivatives of 5,000 words."""
    module = torch.nn.Linear(128, 5000, bias=False).half().float().requires_grad_(trained)
    head = OutputHead(module, LogitsRescaling(factor=0.5, cap=cap), 64)
    half_head = OutputHead(copy.deepcopy(module).half(), head.rescale, 64)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 128, generator=generator).half()
    targets, weights = torch.randint(5000, (300,), generator=generator), torch.rand(300, generator=generator) / 300
    task = LossInputs(states.float().requires_grad_(), targets, weights, loss)
    half = LossInputs(states.requires_grad_(), targets, weights, loss)
    expected = torch.autograd.grad(weighted_loss(head, task)[0], [task.states, *head.trained])
    total = weighted_loss(half_head, half)[0] * 65536.0  # the scale of GradScaler
    for own, reference in zip(torch.autograd.grad(total, [half.states, *half_head.trained]), expected, strict=True):
        assert (own.float() / 65536.0 - reference).norm() <= 0.005 * reference.norm()


def test_small_probabilities_in_float16():
    """All but one of 4,000 words have probability 1.5e-8; their sum balances the derivative at the target."""
    module = torch.nn.Linear(2, 4000, bias=False).half().requires_grad_(False)
    module.weight.zero_()[:, 1] = 1
    module.weight[7, 0] = 18
    states = torch.tensor([[1.0, 0.0]]).half().requires_grad_()
    task = LossInputs(states, torch.tensor([7]), torch.ones(1), LossConfig())
    weighted_loss(OutputHead(module, LogitsRescaling(), 4), task)[0].mul(65536).backward()

    assert states.grad[0, 0] < 0
    assert states.grad[0, 1].abs() < 0.01 * states.grad[0, 0].abs()


def test_chunk_size_on_a_cpu():
    """Larger chunks than 256 are limited to it; smaller ones are unchanged."""
    task, head = task_of(600, 16, 40, LossConfig()), head_of(16, 40, chunk=1024)
    assert head_gradient._chunk_slices(head, task) == [slice(0, 256), slice(256, 512), slice(512, 768)]
    assert head_gradient._chunk_slices(head_of(16, 40, chunk=400), task_of(3, 16, 40, LossConfig())) == [slice(0, 256)]
    assert len(head_gradient._chunk_slices(head_of(16, 40, chunk=100), task)) == 6


class Largest(TorchDispatchMode):
    """Record the largest number of elements of any result."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor) and not value._is_view():
                self.seen = max(self.seen, value.numel())
        return out


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("setting", ["plain", "every"])
def test_memory_does_not_grow_with_positions_times_vocabulary(setting, trained):
    """No tensor is larger than a chunk of logits, and tensors saved for the backward pass are as wide as the states."""
    loss, kept = SETTINGS[setting], []
    head, task = head_of(16, 400, trained=trained, chunk=32), task_of(500, 16, 400, SETTINGS[setting])

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = weighted_loss(head, task)[0]
        total.backward()

    assert loss.kl == 0 or task.base is not None
    assert largest.seen == 32 * 400
    if not trained:
        assert max(kept) == 500 * 16
