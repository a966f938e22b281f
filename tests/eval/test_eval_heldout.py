"""The held-out loss equals that of single examples in every layout; the sums are computed by hand."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.eval import heldout
from sft_cli.eval.evaluate import evaluate_split
from sft_cli.eval.heldout import heldout_loss
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.types import Example

CPU = torch.device("cpu")


def example(length: int, trained: dict[int, float], source: str, seed: int) -> Example:
    """Return an example of random ids; ``trained`` maps positions to their weights, all others are 0."""
    ids = torch.randint(320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(tuple(ids), tuple(trained.get(t, 0.0) for t in range(length)), f"rows.jsonl:{seed}", source)


EXAMPLES = [
    example(9, {5: 1, 6: 1, 8: 1}, "short", 1),
    example(30, dict.fromkeys(range(10, 30), 1), "long", 2),
    example(5, {4: 1}, "short", 3),
    example(14, {3: 0.5, 4: 0.5, 13: 1}, "weighted", 4),
    example(21, dict.fromkeys(range(1, 21), 2), "weighted", 5),
]


def reference(model, examples) -> list[tuple[float, float]]:
    """Return the weighted nats and the weight of each example, computed by plain transformers in float64."""
    found = []
    model.eval()
    for one in examples:
        ids, weights = torch.tensor(one.input_ids), torch.tensor(one.weights, dtype=torch.float64)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        nats = cross_entropy(logits[:-1], ids[1:], reduction="none").double()
        found.append((float(nats @ weights[1:]), float(weights.sum())))
    return found


def begin_alike() -> list[Example]:
    """Return examples; seven of them begin with the same 40 ids, and four of these with the same 60."""
    originals = [example(80 + i, dict.fromkeys(range(70, 80 + i), 0.5 + i % 2), "ab"[i % 2], i) for i in range(9)]
    ids = [list(one.input_ids) for one in originals]
    for number in range(1, 8):
        ids[number][:40] = ids[0][:40]
    for number in range(1, 5):
        ids[number][40:60] = ids[0][40:60]
    return [Example(tuple(own), one.weights, one.where, one.source) for own, one in zip(ids, originals, strict=True)]


def measured(model, split, packed, **options):
    if packed:
        use_packed_attention(model)
    wrapped = LossModel(model, packed=packed, chunk=7)
    return heldout_loss(wrapped, split, packed=packed, device=CPU, **{"reduction": Reduction.token, **options})


@pytest.mark.parametrize(
    ("packed", "budget", "window"),
    [
        pytest.param(True, 64, 1024, id="packed"),
        pytest.param(True, 10, 1024, id="rows-longer-than-the-budget"),
        pytest.param(True, 64, 2, id="windows"),
        pytest.param(False, 64, 1024, id="one-example-per-row"),
    ],
)
def test_the_loss_equals_that_of_each_example_alone(build, split_of, monkeypatch, packed, budget, window):
    monkeypatch.setattr(heldout, "EXAMPLES_PER_PLAN", window)
    alone = reference(build(), EXAMPLES)
    found = measured(build(), split_of(EXAMPLES), packed, max_tokens=budget)
    nats, weights = (sum(column) for column in zip(*alone, strict=True))
    assert found.overall.loss == pytest.approx(nats / weights, rel=1e-5)
    assert found.overall.perplexity == pytest.approx(math.exp(nats / weights), rel=1e-4)
    assert (found.overall.trained_tokens, found.overall.examples) == (47, 5)
    assert list(found.sources) == ["short", "long", "weighted"]
    for name, places in {"short": [0, 2], "long": [1], "weighted": [3, 4]}.items():
        nats, weights = (sum(column) for column in zip(*(alone[i] for i in places), strict=True))
        assert found.sources[name].loss == pytest.approx(nats / weights, rel=1e-5)
    assert found.sources["weighted"].trained_tokens == 23


def test_common_prefixes_are_computed_once_with_the_same_loss(build, split_of, monkeypatch):
    computed = []
    losses_of = LossModel.token_losses

    def counted(self, input_ids, *rest):
        computed.append(input_ids.shape[1])
        return losses_of(self, input_ids, *rest)

    monkeypatch.setattr(LossModel, "token_losses", counted)
    examples = begin_alike()
    split = split_of(examples)
    plain = measured(build(), split, True, max_tokens=256)
    whole = sum(computed)
    computed.clear()
    shared = measured(build(), split, True, max_tokens=256, share_prefixes=True)
    assert sum(computed) < 0.8 * whole
    alone = reference(build(), examples)
    assert shared.overall.loss == pytest.approx(sum(n for n, _ in alone) / sum(w for _, w in alone), rel=1e-5)
    assert shared.overall.loss == pytest.approx(plain.overall.loss, abs=1e-5)
    for name, loss in plain.sources.items():
        assert shared.sources[name].loss == pytest.approx(loss.loss, abs=1e-5)
        assert shared.sources[name].trained_tokens == loss.trained_tokens


@pytest.mark.parametrize(("share", "shared"), [(Choice.auto, True), (Choice.always, True), (Choice.never, False)])
def test_an_evaluation_shares_prefixes_if_the_model_supports_it(build, split_of, monkeypatch, share, shared):
    computed = []
    losses_of = LossModel.token_losses

    def counted(self, input_ids, *rest):
        computed.append(input_ids.shape[1])
        return losses_of(self, input_ids, *rest)

    examples = begin_alike()
    loss_model, probed = build_loss_model(build(), 7, share_prefixes=share)
    assert (probed.shared_ok, loss_model.shares_prefixes) == (True, shared)
    monkeypatch.setattr(LossModel, "token_losses", counted)
    words = {"reduction": Reduction.token, "max_tokens": 256, "decode": str, "stop_ids": [2]}
    found = evaluate_split(loss_model, split_of(examples), EvalConfig(generate=False), **words)

    whole = sum(len(one.input_ids) - 1 for one in examples)
    assert (sum(computed) < 0.8 * whole) is shared
    alone = reference(build(), examples)
    assert found.metrics.overall.loss == pytest.approx(sum(n for n, _ in alone) / sum(w for _, w in alone), abs=1e-5)


def test_an_unpacked_model_shares_nothing(build, split_of):
    split = split_of(begin_alike())
    assert measured(build(), split, False, max_tokens=256, share_prefixes=True) == measured(
        build(), split, False, max_tokens=256
    )


def test_per_example_every_example_counts_the_same_and_perplexity_stays_per_token(build, split_of):
    alone = reference(build(), EXAMPLES)
    found = measured(build(), split_of(EXAMPLES), True, max_tokens=64, reduction=Reduction.example)
    nats, weights = (sum(column) for column in zip(*alone, strict=True))
    assert found.overall.loss == pytest.approx(sum(n / w for n, w in alone) / 5, rel=1e-5)
    assert found.overall.perplexity == pytest.approx(math.exp(nats / weights), rel=1e-4)
    assert abs(found.overall.loss - nats / weights) > 0.01


def test_halving_every_weight_changes_nothing(build, split_of):
    half = [Example(e.input_ids, tuple(w / 2 for w in e.weights), e.where, e.source) for e in EXAMPLES]
    whole = measured(build(), split_of(EXAMPLES), True, max_tokens=64)
    assert measured(build(), split_of(half), True, max_tokens=64) == whole


def test_only_the_chosen_examples_count(build, split_of):
    alone = reference(build(), EXAMPLES)
    progress_calls = []
    found = measured(
        build(), split_of(EXAMPLES), True, max_tokens=64, indices=[4, 0], progress=lambda *of: progress_calls.append(of)
    )
    assert found.overall.loss == pytest.approx((alone[4][0] + alone[0][0]) / (alone[4][1] + alone[0][1]), rel=1e-5)
    assert {name: loss.examples for name, loss in found.sources.items()} == {"weighted": 1, "short": 1}
    assert progress_calls[-1] == (2, 2)


def test_the_model_and_the_random_generators_are_unchanged(build, split_of):
    model = build()
    model.model.layers[0].eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    measured(model, split_of(EXAMPLES), True, max_tokens=64)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
