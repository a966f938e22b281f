"""Batches of generation: their tokens, rows that have stopped, and adapters that are folded into the weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from transformers import AutoTokenizer

from sft_cli.distributed.process_group import World
from sft_cli.eval import generate
from sft_cli.eval.engine.sampling import Sampling
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.model.adapter import folded as folded_module
from sft_cli.model.adapter.folded import folded_adapter
from tests.eval.conftest import write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT reads it
PROMPTS = [[5 + 3 * row + column for column in range(4 + row)] for row in range(8)]
SEEDS = list(range(8))
LENGTH, PAD = 16, 0


def answers(model, batch_size: int, stops, sampling=None, **texts) -> list[tuple[int, ...]]:
    settings = GenerationSettings(tuple(stops), LENGTH, batch_size, sampling, **texts)
    found = {}
    for batch, generated in answer_batches(model, PROMPTS, settings, seeds=SEEDS, pad_id=PAD, world=World()):
        found |= dict(zip(batch, (answer.ids for answer in generated), strict=True))
    return [found[index] for index in range(len(PROMPTS))]


def inputs_of(model) -> list[tuple[int, ...]]:
    """Return the shapes of the inputs of the model from now on."""
    shapes = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape)))
    return shapes


@pytest.mark.parametrize("family", ["llama", "mistral-window"])
@pytest.mark.parametrize("sampling", [None, Sampling(1.5)], ids=["greedy", "sampled"])
def test_rows_that_have_stopped_leave_the_batch(build, family, sampling):
    model = build(family)
    unstopped = answers(model, 8, [2], sampling)
    stops = [2, *{ids[2 + row] for row, ids in enumerate(unstopped) if row < 5 and len(ids) > 2 + row}]
    alone = answers(model, 1, stops, sampling)
    assert len({len(ids) for ids in alone}) > 2, "rows stop at different lengths"
    shapes = inputs_of(model)
    assert answers(model, 8, stops, sampling) == alone
    rows = [shape[0] for shape in shapes]
    assert rows[0] == 8
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 1


def test_rows_that_end_at_a_text_leave_the_batch(build, tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = build()
    found = [[tokenizer.decode([id]) for id in ids] for ids in answers(model, 8, [2])]
    texts = [next((text for text in row[1 + index :] if text.isascii() and text.isprintable() and text), "")
             for index, row in enumerate(found[:5])]  # fmt: skip
    options = {"stop_texts": tuple({text for text in texts if text}), "tokenizer": tokenizer}
    alone = answers(model, 1, [2], **options)
    assert len({len(ids) for ids in alone}) > 2, "rows end at different lengths"
    shapes = inputs_of(model)
    together = answers(model, 8, [2], **options)
    assert [ids[: len(own)] for ids, own in zip(together, alone, strict=True)] == alone
    assert all(id == PAD for ids, own in zip(together, alone, strict=True) for id in ids[len(own) :])
    assert shapes[-1][0] < 8


def test_a_batch_has_at_most_the_tokens_of_its_device(build, monkeypatch):
    model = build()
    whole = answers(model, 8, [2])
    monkeypatch.setitem(generate.TOKENS_PER_BATCH, "cpu", 20)
    shapes = inputs_of(model)
    assert answers(model, 8, [2]) == whole
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert prefills == [(1, 11), (2, 10), (2, 8), (3, 6)], "11 | 10 9 | 8 7 | 6 5 4, padded to the longest"


def adapted(build, **options):
    model = get_peft_model(build(), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPTS[-1]])).logits


def test_a_folded_adapter_gives_the_same_logits_and_is_taken_out_exactly(build):
    model = adapted(build)
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    expected = logits_of(model)
    with model.disable_adapter():
        base = logits_of(model)
    calls = []
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda *args: calls.append(args))
    with folded_adapter(model) as folded:
        assert folded
        torch.testing.assert_close(logits_of(model), expected, atol=1e-4, rtol=1e-4)
        assert not calls, "no product with the adapter"
        assert not torch.allclose(base, expected, atol=0.1), "the adapter changes the model"
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(
        after[name].data_ptr() == place and torch.equal(after[name], value) for name, (place, value) in before.items()
    )
    assert torch.equal(logits_of(model), expected)
    assert calls


def test_the_adapter_is_taken_out_after_an_error(build, monkeypatch):
    model = adapted(build)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(layers[-1], "merge", fail)
    with pytest.raises(MemoryError), folded_adapter(model):
        pass
    assert not any(layer.merged for layer in layers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_large_weights_are_not_copied(build, monkeypatch):
    model = adapted(build)
    size = sum(module.get_base_layer().weight.nbytes for module in model.modules() if isinstance(module, LoraLinear))
    for limit, expected in ((size, True), (size - 1, False)):
        monkeypatch.setattr(folded_module, "MAX_BYTES", limit)
        with folded_adapter(model) as folded:
            assert folded is expected


def test_generation_folds_the_adapter(build):
    model = adapted(build)
    calls = []
    hooks = [module.register_forward_hook(lambda *args: calls.append(args))
             for name, module in model.named_modules() if name.endswith("lora_A.default")]  # fmt: skip
    assert len(hooks) > 0
    answers(model, 4, [2])
    assert not calls


def test_what_cannot_be_folded_exactly_stays_an_adapter(build):
    dora, half = adapted(build, use_dora=True), adapted(build).to(torch.bfloat16)
    embeddings = adapted(build, trainable_token_indices=[3])
    for model in (dora, half, embeddings, build()):
        expected = logits_of(model)
        with folded_adapter(model) as folded:
            assert not folded
            assert torch.equal(logits_of(model), expected)
    model = adapted(build)
    with model.disable_adapter(), folded_adapter(model) as folded:
        assert not folded, "the base model is evaluated without the adapter"
