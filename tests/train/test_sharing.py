"""A step in rows with shared prefixes has the loss and the gradient of padded rows in plain transformers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from sft_cli.batching.prefetch import Prefetcher
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.train.step import batch_kwargs
from tests.train.helpers import answering, tokens


class Rows:
    """Examples, all but one with the same system prompt; two unrolled conversations, one repeated; various weights."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        ids = [draw.integers(3, 300, size) for size in (31, 17, 9, 12, 20, 5, 40)]
        system, question, answer, second, other, short, alone = ids
        self.examples = [
            answering([*system, *question], answer),
            answering([*system, *question, *answer, *second], short),
            answering([*system, *question, *answer, *second], answer),
            answering([*system, *other], answer),
            answering([*system, *other], answer),
            answering(alone, short),
            tokens([*system, *short, *other], [0] * 31 + [0.5] * 5 + [0] * 10 + [2] * 3 + [0] * 7),
        ]

    def tokens(self, index: int):
        return self.examples[index]


def padded(base, reduction):
    """Return loss and gradients of one padded batch with a mask and all logits."""
    model = AutoModelForCausalLM.from_pretrained(base)
    examples = Rows().examples
    longest = max(len(example.input_ids) for example in examples)
    ids, mask = torch.zeros(len(examples), longest, dtype=torch.long), torch.zeros(len(examples), longest)
    weights = torch.zeros(len(examples), longest)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length], mask[row, :length] = torch.tensor(example.input_ids), 1
        weights[row, :length] = torch.tensor(example.weights)
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
    nats = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * weights[:, 1:]
    sums = weights.sum(1)
    loss = nats.sum() / sums.sum() if reduction is Reduction.token else (nats.sum(1) / sums).mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize(
    ("budget", "ranks", "saved"),
    [
        pytest.param(1000, 1, 0.4, id="one-row"),
        pytest.param(130, 1, 0.2, id="rows"),
        pytest.param(150, 2, 0.2, id="two-ranks"),
    ],
)
def test_loss_and_gradient(base, budget, ranks, saved, reduction):
    model = AutoModelForCausalLM.from_pretrained(base)
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=7)
    total, settings = 0.0, {"reduction": reduction, "max_tokens": budget, "packed": True, "device": torch.device("cpu")}
    for rank in range(ranks):
        with Prefetcher(
            Rows(), lambda _: range(7), 0, 1, **settings, share_prefixes=Choice.auto, world_size=ranks, rank=rank
        ) as feed:
            step = feed.get(0)
        for batch in step.batches:
            loss = loss_model(**batch_kwargs(batch))["loss"]
            loss.backward()
            total += loss.item()
    assert step.computed_tokens < (1 - saved) * step.tokens

    direct, expected = padded(base, reduction)
    assert total == pytest.approx(direct, abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        error = (parameter.grad - expected[name]).abs().max() / expected[name].abs().max()
        assert error <= 1e-5, name
    assert expected
