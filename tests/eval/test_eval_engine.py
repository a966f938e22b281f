"""Log-likelihoods, samples and prompts of the engine, on tiny models."""

import itertools

import pytest
import torch

from sft_cli.distributed.process_group import World
from sft_cli.eval.engine.choices import continuation_logprobs, cut_context
from sft_cli.eval.engine.prompts import Continuation
from sft_cli.eval.engine.reasoning import split_reasoning, template_tags
from sft_cli.eval.engine.sampling import Sampling, SeededSampling, answer_seed
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel

CONTEXTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [21, 22, 23], [5, 6, 7, 8, 9, 10, 11, 12, 40, 41, 42])
ENDINGS = ([30], [31, 32, 33], [30, 31], [34])
CONTINUATIONS = [Continuation(tuple(c), tuple(e)) for c, e in itertools.product(CONTEXTS, ENDINGS)]


def by_hand(model, one: Continuation) -> float:
    """Return the log-likelihood by a plain forward over all ids."""
    ids = torch.tensor([[*one.context, *one.ids]])
    with torch.no_grad():
        logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(one.context)
    return sum(float(logprobs[start + k - 1, id]) for k, id in enumerate(one.ids))


@pytest.fixture(scope="module")
def expected():
    from tests.eval.conftest import tiny

    model = tiny().eval()
    return [by_hand(model, one) for one in CONTINUATIONS]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "alone"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "whole"])
@pytest.mark.parametrize("max_tokens", [24, 4096])
def test_loglikelihoods_equal_a_plain_forward_in_any_layout(build, expected, packed, shared, max_tokens):
    model = build()
    if packed:
        use_packed_attention(model)
    loss_model = LossModel(model, packed=packed, chunk=64, shares_prefixes=packed and shared)
    finished = []
    values = continuation_logprobs(loss_model, CONTINUATIONS, max_tokens, finished.append)
    assert values == pytest.approx(expected, abs=1e-5)
    assert len(set(values)) == len(values), "the values differ, so that a wrong order would be found"
    assert sum(finished) == len(CONTINUATIONS)


def test_a_context_is_computed_once_for_all_its_continuations(build):
    model = build()
    use_packed_attention(model)
    models = [LossModel(model, packed=True, chunk=64, shares_prefixes=shared) for shared in (True, False)]
    computed = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: computed.append(args[0].numel()))
    four = [Continuation(tuple(range(5, 45)), tuple(ending)) for ending in ENDINGS]
    for loss_model in models:
        continuation_logprobs(loss_model, four, 4096)
    # The last id of a continuation is no input, and the first is predicted at the last position of the context.
    inputs = sum(len(ending) - 1 for ending in ENDINGS)
    once, each = computed
    assert each == 4 * 40 + inputs
    assert once == 39 + 4 + inputs


def test_a_long_context_keeps_its_end():
    one = Continuation(tuple(range(10)), (50, 51))
    assert cut_context(one, 8) == Continuation(tuple(range(3, 10)), (50, 51))
    assert cut_context(one, 11) is one
    assert cut_context(one, None) is one


PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4], [3] * 20)
SEEDS = [answer_seed(0, str(item), sample) for item in range(len(PROMPTS)) for sample in range(3)]
REPEATED = [prompt for prompt in PROMPTS for _ in range(3)]


def sampled(model, prompts, seeds, batch_size: int, sampling=None, max_new_tokens: int = 8) -> list[tuple[int, ...]]:
    settings = GenerationSettings((2,), max_new_tokens, batch_size, sampling or Sampling(1.5, 0.9))
    answers = {}
    for batch, generated in answer_batches(model, prompts, settings, seeds=seeds, pad_id=0, world=World()):
        answers |= dict(zip(batch, (answer.ids for answer in generated), strict=True))
    return [answers[index] for index in range(len(prompts))]


@pytest.mark.parametrize("family", ["llama", "mistral-window"])
def test_samples_do_not_depend_on_the_batch(build, family):
    model = build(family)
    together = sampled(model, REPEATED, SEEDS, batch_size=9)
    one_by_one = [sampled(model, [prompt], [seed], 1)[0] for prompt, seed in zip(REPEATED, SEEDS, strict=True)]
    assert together == one_by_one
    assert sampled(model, REPEATED, SEEDS, batch_size=2) == together
    assert len(set(together)) == len(together), "each seed gives another answer"
    reseeded = [seed + 1 for seed in SEEDS]
    assert sampled(model, REPEATED, reseeded, batch_size=9) != together


def test_the_prompt_of_several_samples_is_computed_once(build):
    model = build()
    computed = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: computed.append(args[0].shape))
    sampled(model, [PROMPTS[2]] * 4, SEEDS[:4], batch_size=4, max_new_tokens=1)
    assert [tuple(shape) for shape in computed] == [(1, 19), (4, 1)]


def test_a_seeded_draw_follows_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = Sampling(temperature=0.7)
    expected = (logits[0] / 0.7).softmax(-1)
    draws = SeededSampling(sampling, range(4000))(torch.zeros(0), logits.expand(4000, 4)).argmax(-1)
    observed = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(observed, expected, atol=0.03)
    nucleus = SeededSampling(Sampling(1.0, top_p=0.6), range(500))(torch.zeros(0), logits.expand(500, 4)).argmax(-1)
    assert set(nucleus.tolist()) == {0}


def test_answers_to_an_item_have_seeds_of_their_own():
    seeds = {answer_seed(seed, id, sample) for seed in (0, 1) for id in ("a", "b") for sample in (0, 1)}
    assert len(seeds) == 8
    assert answer_seed(0, "a", 1) == answer_seed(0, "a", 1)


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        pytest.param("Q\n", "<think>\nwhy\n</think>\n\nA", ("why", "A"), id="block"),
        pytest.param("Q\n<think>\n", "why\n</think>\n\nA", ("why", "A"), id="opened-by-the-prompt"),
        pytest.param("Q\n<think>\n", "why and", ("why and", ""), id="never-closed"),
        pytest.param("Q\n", "<think>\nwhy", ("why", ""), id="opened-and-never-closed"),
        pytest.param("Q\n<think>\n\n</think>\n\n", "A", ("", "A"), id="closed-by-the-prompt"),
        pytest.param("Q\n", " A\n", ("", " A\n"), id="none"),
    ],
)
def test_reasoning_is_split_off_by_the_tags_of_the_template(prompt, text, expected):
    assert split_reasoning(prompt, text, template_tags("{{ '<think>' }}")) == expected
    assert split_reasoning("Q\n", "<think>\nwhy</think>A", template_tags("no tags")) == ("", "<think>\nwhy</think>A")
