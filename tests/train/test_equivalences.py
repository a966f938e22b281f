"""What layout, resuming and packing must not change: the loss curve and the gradient."""

import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from sft_cli.config.schema import Reduction
from sft_cli.data.prepared import Tokens
from sft_cli.model.attention import register, use_packed
from sft_cli.model.head import LossModel
from sft_cli.train import loop
from sft_cli.train.step import compute_gradient


class Rows:
    """Examples with 1, 9, 3 and 20 trained tokens of different weights: a mean of means would fail here."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.examples = []
        for length, trained in ((30, 1), (40, 9), (9, 3), (60, 20)):
            weights = np.zeros(length, np.float32)
            weights[-trained:] = 1
            weights[-1] = 0.5
            self.examples.append(Tokens(generator.integers(3, 300, length), weights))

    def tokens(self, index: int) -> Tokens:
        return self.examples[index]


def gradients(base, *, packed, budget, reduction, order=(0, 1, 2, 3)):
    """Loss and every gradient of one step."""
    register()
    model = AutoModelForCausalLM.from_pretrained(base)
    if packed:
        use_packed(model)
    loss_model = LossModel(model, packed=packed, chunk=4)
    computed = compute_gradient(
        loss_model, Accelerator(cpu=True), Rows(), order, reduction=reduction, budget=budget, packed=packed
    )
    return computed.loss.item(), {name: p.grad for name, p in model.named_parameters()}


def reference(base, reduction):
    """The same by plain transformers, each example alone, all logits."""
    model = AutoModelForCausalLM.from_pretrained(base)
    losses, weights = [], []
    for example in Rows().examples:
        ids = torch.tensor(example.input_ids)[None]
        logits = model(input_ids=ids).logits[0, :-1]
        each = cross_entropy(logits, ids[0, 1:], reduction="none")
        weight = torch.tensor(example.weights)[1:]
        losses.append((each * weight).sum())
        weights.append(weight.sum())
    if reduction is Reduction.token:
        loss = sum(losses) / sum(weights)
    else:
        loss = sum(a / b for a, b in zip(losses, weights, strict=True)) / len(losses)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize(
    ("packed", "budget", "order"),
    [
        pytest.param(True, 1000, (0, 1, 2, 3), id="one-row"),
        pytest.param(True, 64, (0, 1, 2, 3), id="three-rows"),
        pytest.param(True, 1000, (3, 1, 0, 2), id="another-order"),
        pytest.param(False, 64, (0, 1, 2, 3), id="one-example-a-row"),
    ],
)
def test_a_step_is_the_direct_loss_of_each_example_alone(base, packed, budget, order, reduction):
    loss, grads = gradients(base, packed=packed, budget=budget, reduction=reduction, order=order)
    direct, expected = reference(base, reduction)

    assert loss == pytest.approx(direct, abs=1e-5)
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert (grads[name] - gradient).abs().max() <= 1e-5 * max(scale, 1e-3), name


@pytest.mark.parametrize("words", [["trainer.tokens_per_micro_batch=2048"], ["trainer.gradient_checkpointing=true"]])
def test_a_run_has_one_loss_curve_whatever_the_layout(runs, metrics, words):
    narrow = metrics(runs.start("narrow"))
    other = metrics(runs.start("other", *words))

    assert [m["loss"] for m in other] == pytest.approx([m["loss"] for m in narrow], abs=1e-5)
    assert [m["grad_norm"] for m in other] == pytest.approx([m["grad_norm"] for m in narrow], rel=1e-4)


@pytest.mark.parametrize("words", [["adapter=lora"], ["adapter=none"], ["adapter=lora", "adapter.dropout=0.1"]])
def test_a_resumed_run_is_the_straight_run_to_the_bit(runs, metrics, monkeypatch, words):
    straight = metrics(runs.start("straight", "trainer.save_every=1", *words))
    with monkeypatch.context() as patched:
        stop_behind(patched, 3)
        with pytest.raises(SystemExit) as stopped:
            runs.start("resumed", "trainer.save_every=1", *words)
    assert stopped.value.code == 128 + signal.SIGTERM
    again = runs.resume("resumed")

    keys = ("step", "loss", "grad_norm", "lr", "examples", "tokens", "trained_tokens")
    assert [[m[k] for k in keys] for m in metrics(again)] == [[m[k] for k in keys] for m in straight]
    assert len(straight) == 8


def stop_behind(monkeypatch, step: int) -> None:
    """Send this process SIGTERM while step ``step`` is computed."""
    take = loop.take_step

    def interrupted(run, parts, number):
        if number == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return take(run, parts, number)

    monkeypatch.setattr(loop, "take_step", interrupted)
