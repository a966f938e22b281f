"""Batched answers equal those of single prompts and those of an argmax loop without a cache."""

import logging

import pytest
import torch

from sft_cli.eval.generate import GeneratedAnswer, generate_answers
from sft_cli.model.attention.packing import PACKED, use_packed_attention

FAMILIES = ["llama", "qwen2", "mistral-window", "gpt2"]
LENGTHS = [3, 11, 1, 7, 11, 2, 19]


def random_prompts(lengths=LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 320, (length,), generator=generator).tolist() for length in lengths]


def argmax_loop(model, ids: list[int], stops: set[int], limit: int) -> GeneratedAnswer:
    """Append the most probable id until the end, without a cache: the reference."""
    model.eval()
    new: list[int] = []
    for _ in range(limit):
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax()))
        if new[-1] in stops:
            return GeneratedAnswer(tuple(new[:-1]), True)
    return GeneratedAnswer(tuple(new), False)


def stops_of(model) -> list[int]:
    """Return two ids that this random model generates, so that some answers end and others do not."""
    generated = [argmax_loop(model, ids, set(), 8).ids for ids in random_prompts()]
    return [generated[0][2], generated[3][5]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_equal_the_argmax_loop(build, family, batch_size):
    model = build(family)
    stops = stops_of(model)
    expected = [argmax_loop(model, ids, set(stops), 8) for ids in random_prompts()]
    assert {answer.stopped for answer in expected} == {True, False}
    progress_calls = []
    found = generate_answers(
        build(family),
        random_prompts(),
        stop_ids=stops,
        pad_id=stops[0],
        max_new_tokens=8,
        batch_size=batch_size,
        progress=lambda done, total: progress_calls.append((done, total)),
    )
    assert found == expected
    assert progress_calls[-1] == (7, 7)


def test_the_context_limit_shortens_only_long_answers(build):
    """In a context of 128, prompts of 120, 126, 128 and 140 ids leave 8, 2, 0 and 0 ids for the answer."""
    prompts = random_prompts([120, 126, 128, 140, 4])
    found = generate_answers(build(), prompts, stop_ids=[2], pad_id=0, max_new_tokens=8, batch_size=16)
    alone = [argmax_loop(build(), prompts[i], {2}, limit).ids for i, limit in [(0, 8), (1, 2), (4, 8)]]
    assert [answer.ids for answer in found] == [alone[0], alone[1], (), (), alone[2]]
    assert [answer.truncated for answer in found] == [False, True, True, True, False]
    assert not any(answer.stopped for answer in found)


def test_a_stop_token_before_the_context_limit_is_no_truncation(build):
    prompt = random_prompts([126])[0]
    first = argmax_loop(build(), prompt, set(), 1).ids[0]
    assert generate_answers(build(), [prompt], stop_ids=[first], pad_id=0, max_new_tokens=8, batch_size=1) == [
        GeneratedAnswer((), True)
    ]


def test_the_models_own_generation_config_is_ignored(build, caplog, recwarn, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = build()
    plain = generate_answers(model, random_prompts(), stop_ids=[2], pad_id=0, max_new_tokens=8, batch_size=4)
    own = model.generation_config
    own.do_sample, own.temperature, own.top_p, own.repetition_penalty = True, 0.6, 0.9, 5.0
    own.eos_token_id, own.min_new_tokens, own.max_length = list(range(300)), 20, 4
    settings = own.to_dict()
    with caplog.at_level(logging.WARNING):
        found = generate_answers(model, random_prompts(), stop_ids=[2], pad_id=0, max_new_tokens=8, batch_size=4)
    assert found == plain
    assert model.generation_config.to_dict() == settings
    assert (caplog.records, list(recwarn)) == ([], [])


def test_the_model_and_the_random_generators_are_unchanged(build):
    model = build()
    use_packed_attention(model)
    state = torch.get_rng_state()
    generate_answers(model, random_prompts(), stop_ids=[2], pad_id=0, max_new_tokens=4, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.config._attn_implementation == PACKED


def test_no_prompts_give_no_answers(build):
    assert generate_answers(build(), [], stop_ids=[2], pad_id=0, max_new_tokens=4, batch_size=4) == []
