"""Layout, resuming and packing do not change the loss curve and the gradient."""

import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from sft_cli.batching.prefetch import Prefetcher
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import TokenizedExample
from sft_cli.model.attention.packing import register_packed_attention, use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.train.step import accumulate_gradients


class Rows:
    """Examples with 1, 9, 3 and 20 trained tokens of different weights: a mean of means would give another loss.

    All except the third begin with the same 16 tokens.
    """

    sources = ("rows",) * 4

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.examples = []
        for length, trained in ((30, 1), (40, 9), (9, 3), (60, 20)):
            weights = np.zeros(length, np.float32)
            weights[-trained:] = 1
            weights[-1] = 0.5
            ids = generator.integers(3, 300, length)
            if length > 20:
                ids[:16] = np.arange(16) + 3
            self.examples.append(TokenizedExample(ids, weights))

    def tokens(self, index: int) -> TokenizedExample:
        return self.examples[index]


def gradients(base, *, packed, budget, reduction, order=(0, 1, 2, 3), share_prefixes=Choice.never):
    """Return the loss and all gradients of one step."""
    register_packed_attention()
    model = AutoModelForCausalLM.from_pretrained(base)
    if packed:
        use_packed_attention(model)
    loss_model = LossModel(model, packed=packed, chunk=4)
    device = torch.device("cpu")
    settings = {
        "reduction": reduction,
        "max_tokens": budget,
        "packed": packed,
        "share_prefixes": share_prefixes,
        "device": device,
    }
    with Prefetcher(Rows(), lambda step: order, 0, 1, **settings) as feed:
        batches = feed.get(0)
    assert batches.tokens == 139
    assert (batches.computed_tokens < batches.tokens - 4) == (share_prefixes is not Choice.never and budget == 1000)
    terms = accumulate_gradients(loss_model, Accelerator(cpu=True), batches)
    assert terms["nll"].item() == pytest.approx(terms["loss"].item(), abs=1e-6)
    return terms["loss"].item(), {name: p.grad for name, p in model.named_parameters()}


def reference(base, reduction):
    """Return the loss and all gradients by plain transformers, one example at a time, with all logits."""
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
    ("packed", "budget", "order", "share"),
    [
        pytest.param(True, 1000, (0, 1, 2, 3), Choice.never, id="one-row"),
        pytest.param(True, 64, (0, 1, 2, 3), Choice.never, id="three-rows"),
        pytest.param(True, 1000, (3, 1, 0, 2), Choice.never, id="another-order"),
        pytest.param(True, 1000, (3, 1, 0, 2), Choice.always, id="shared-prefix"),
        pytest.param(False, 64, (0, 1, 2, 3), Choice.never, id="one-example-a-row"),
    ],
)
def test_a_step_is_the_direct_loss_of_each_example_alone(base, packed, budget, order, share, reduction):
    loss, grads = gradients(base, packed=packed, budget=budget, reduction=reduction, order=order, share_prefixes=share)
    direct, expected = reference(base, reduction)

    assert loss == pytest.approx(direct, abs=1e-5)
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert (grads[name] - gradient).abs().max() <= 1e-5 * max(scale, 1e-3), name


@pytest.mark.every_change("full")
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["speed.tokens_per_micro_batch=2048"], id="wide"),
        pytest.param(["speed.gradient_checkpointing=full"], id="full"),
        pytest.param(["speed.gradient_checkpointing=selective"], id="selective"),
        pytest.param(["speed.gradient_checkpointing=layers", "speed.checkpointed_layers=1"], id="layers"),
        pytest.param(["speed.share_prefixes=never"], id="not-shared"),
        pytest.param(["speed.share_prefixes=always"], id="shared"),
        pytest.param(["speed.fused=false"], id="not-fused"),
        pytest.param(["speed.packing=false"], id="not-packed"),
        pytest.param(["speed.logits_chunk=7"], id="small-chunks"),
    ],
)
def test_the_loss_curve_does_not_depend_on_the_layout(runs, metrics, words):
    narrow = metrics(runs.start("narrow"))
    other = metrics(runs.start("other", *words))

    assert [m["loss"] for m in other] == pytest.approx([m["loss"] for m in narrow], abs=1e-5)
    assert [m["grad_norm"] for m in other] == pytest.approx([m["grad_norm"] for m in narrow], rel=1e-4)


@pytest.mark.every_change("words0")
@pytest.mark.parametrize("words", [["adapter=lora"], ["adapter=none"], ["adapter=lora", "adapter.dropout=0.1"]])
def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(runs, metrics, stop_during_step, words):
    straight = metrics(runs.start("straight", "trainer.save_every=1", *words))
    stop_during_step(3)
    with pytest.raises(SystemExit) as stopped:
        runs.start("resumed", "trainer.save_every=1", *words)
    assert stopped.value.code == 128 + signal.SIGTERM
    again = runs.resume("resumed")

    keys = ("step", "loss", "grad_norm", "lr", "examples", "tokens", "trained_tokens")
    assert [[m[k] for k in keys] for m in metrics(again)] == [[m[k] for k in keys] for m in straight]
    assert len(straight) == 8
