"""Recomputation changes memory and time, but no gradient."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, BambaConfig, LlamaConfig

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.kernels import MAX_MATMUL_KEYS
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LogitsPath, LossModel
from sft_cli.model.memory import checkpointing
from sft_cli.model.memory.checkpointing import (
    CheckpointingPlan,
    apply_checkpointing,
    choose_checkpointing,
    next_checkpointing_level,
)
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.layer_memory import LiveBytes, decoder_layers, track_layers
from sft_cli.model.memory.offload import OffloadedTensor, Offloader
from sft_cli.model.memory.saved_activations import SavedBytes
from sft_cli.model.quant import causal_lm
from sft_cli.model.speed.fused_lora import fuse_lora

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MODES = [Checkpointing.none, Checkpointing.selective, Checkpointing.layers, Checkpointing.full, Checkpointing.offload]


def recompute(mode, layers):
    return CheckpointingPlan(mode, 0 if mode is Checkpointing.none else layers, "for a test")


def adapted(base, *, fused=False, seed=0):
    """Return a model with packed attention and a LoRA whose B is not zero."""
    model = add_adapter(base, AdapterConfig(rank=4), [], seed=seed).model
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(generator=generator, std=0.1)
    if fused:
        assert fuse_lora(model).layers
    use_packed_attention(model)
    return model.train()


def gradients(model, batch):
    """Return the loss and the gradient of every trained parameter."""
    model.zero_grad()
    loss_model = LossModel(model, packed=True, chunk=4, path=LogitsPath.row)
    loss = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("fused", [False, True], ids=["peft", "fused"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_recomputation_keeps_gradients_bit_for_bit(build, make_batch, family, mode, fused, monkeypatch):
    """The layers' inputs are small here, but all of them are offloaded."""
    monkeypatch.setattr(checkpointing, "Offloader", lambda device: Offloader(device, min_elements=1))
    batch = make_batch([5, 3, 7])
    model = adapted(build(family), fused=fused)
    loss, expected = gradients(model, batch)
    apply_checkpointing(model, recompute(mode, 1 if mode is Checkpointing.layers else 2))
    for _ in range(2):
        again, found = gradients(model, batch)
        assert again == loss
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(expected) > 4


def test_recomputation_uses_the_same_dropout(build, make_batch):
    batch = make_batch([5, 9])
    model = adapted(build("llama"))
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.5
    results = []
    for mode in (Checkpointing.none, Checkpointing.full):
        apply_checkpointing(model, recompute(mode, 2))
        torch.manual_seed(3)
        results.append(gradients(model, batch))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])


class Calls(TorchDispatchMode):
    """Count operations."""

    def __init__(self):
        super().__init__()
        self.number = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "runs"), [("none", 1), ("selective", 1), ("full", 2)])
def test_selective_runs_the_attention_kernel_once(build, make_batch, mode, runs):
    """Two layers, two documents of different lengths; on a CPU short documents use matrix products."""
    short = MAX_MATMUL_KEYS.get(torch.float32, 0)
    model = adapted(build("llama"))
    apply_checkpointing(model, recompute(Checkpointing(mode), 2))
    with Calls() as calls:
        gradients(model, make_batch([short + 5, short + 8]))
    (kernel,) = checkpointing.fused_attention_ops(CPU)
    assert calls.number[kernel] == 2 * 2 * runs


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_apply_checkpointing_replaces_an_earlier_plan(build, layers):
    model = adapted(build("llama"))
    apply_checkpointing(model, recompute(Checkpointing.full, 2))
    apply_checkpointing(model, recompute(Checkpointing.layers if layers else Checkpointing.none, layers))
    assert [layer.gradient_checkpointing for layer in decoder_layers(model)] == [place < layers for place in range(2)]


def test_the_frozen_embedding_needs_no_gradient(build, make_batch):
    model = adapted(build("llama"))
    apply_checkpointing(model, recompute(Checkpointing.full, 2))
    seen = []
    causal_lm(model).get_input_embeddings().register_forward_hook(
        lambda module, given, out: seen.append(out.requires_grad)
    )
    gradients(model, make_batch([5]))
    assert seen == [False]


def test_full_recomputation_saves_only_layer_inputs(build, make_batch):
    batch = make_batch([40, 24])
    model = adapted(build("llama"))
    apply_checkpointing(model, recompute(Checkpointing.full, 2))
    _, positions, documents = batch.row
    loss_model = LossModel(model, packed=True, chunk=4, path=LogitsPath.row)
    with track_layers(model, LiveBytes()) as memory, memory.record_saved():
        causal_lm(model).base_model(input_ids=batch.row[0], **loss_model.row_arguments(positions, documents))
    # The hooks of checkpointing hide what the layers keep. Their inputs are counted before they are entered; torch 2.11
    # saves those inside the hooks, too.
    assert memory.saved in ([64 * 128 * 4] * 2, [0, 0])


def test_offloader_fetches_the_next_input_early():
    offloader = Offloader(CPU, min_elements=1)
    sent = [offloader.send(torch.full((2,), float(place))) for place in range(3)]
    assert all(isinstance(away, OffloadedTensor) for away in sent)
    assert [away.device_copy is not None for away in sent] == [False, False, False]
    assert offloader.fetch(sent[2]).tolist() == [2.0, 2.0]
    assert [away.device_copy is not None for away in sent] == [False, True, False]
    assert offloader.fetch(sent[1]).tolist() == [1.0, 1.0]
    assert offloader.fetch(sent[0]).tolist() == [0.0, 0.0]
    assert offloader.send(torch.ones(3, dtype=torch.int64)).dtype == torch.int64  # no input of a layer


def test_family_without_checkpointing_layers_is_refused(build):
    model = build("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(SftError) as caught:
        apply_checkpointing(model, recompute(Checkpointing.full, 2))
    assert str(caught.value) == (
        "speed.gradient_checkpointing=full: "
        "the layers of LlamaForCausalLM cannot be recomputed in the backward pass\n"
        "  fix: speed.gradient_checkpointing=none, with a smaller speed.tokens_per_micro_batch"
    )
    apply_checkpointing(model, recompute(Checkpointing.none, 0))


def needed(layers=4, each=100, rest=10, layer_input=8, attention=4):
    kept = SavedBytes((each,) * layers, rest, layer_input, attention)
    return MemoryEstimate(
        weights=1000, parameters=50, gradients=50, optimizer_state=100, logits=50, saved=kept, num_trained=7
    )


def test_memory_estimate_activations_by_hand():
    """Four layers of 100, inputs of 8, attention of 4, 10 outside."""
    memory = needed()
    table = {
        (Checkpointing.none, 0): 10 + 400,
        (Checkpointing.layers, 1): 10 + 8 + 300,
        (Checkpointing.layers, 3): 10 + 24 + 100,
        (Checkpointing.full, 4): 10 + 32 + 100,
        (Checkpointing.selective, 4): 10 + 4 * 12 + 100,
        (Checkpointing.offload, 4): 10 + 24 + 100,
    }
    assert {key: memory.activations(*key) for key in table} == table
    assert memory.total(Checkpointing.none) == 1000 + 200 + 50 + 410
    assert memory.total(Checkpointing.full, 4) == 1000 + 200 + max(10 + 32 + 50, 10 + 32 + 100)
    passing = replace(memory, saved=replace(memory.saved, transient=70))
    assert passing.total(Checkpointing.none) == 1000 + 200 + 70 + 410
    assert passing.total(Checkpointing.full, 4) == 1000 + 200 + 142 + 70
    wide = replace(memory, fragmentation=0.5, process_overhead=30)
    assert wide.total(Checkpointing.none) == 1000 + 200 + int(460 * 1.5) + 30


@pytest.mark.parametrize(
    ("free", "device", "mode", "layers"),
    [
        pytest.param(410, CPU, "none", 0, id="everything-fits"),
        pytest.param(409, CPU, "layers", 1, id="one-byte-short"),
        pytest.param(134, CPU, "layers", 3, id="the-fewest-that-fit"),
        pytest.param(133, CPU, "full", 4, id="all-of-them"),
        pytest.param(91, CPU, "full", 4, id="nothing-fits"),
        pytest.param(91, CUDA, "offload", 4, id="nothing-fits-with-offloading"),
        pytest.param(-5000, CPU, "full", 4, id="not-even-the-weights"),
    ],
)
def test_choose_checkpointing_auto_recomputes_few_layers(free, device, mode, layers):
    """A tenth of the free memory is a margin, and 1250 are needed for weights, training state and logits.

    If all layers are recomputed, one of them reuses the memory of the logits: 142 with the inputs, not 192.
    """
    whole = -(-(free + 1250) * 10 // 9)
    chosen = choose_checkpointing(SpeedConfig(), needed(), whole, device)
    assert (chosen.mode.value, chosen.layers) == (mode, layers)


def test_choose_checkpointing_counts_fragmentation():
    """Four layers of 100 bytes and 10 outside: 410 bytes fit into 450 free ones, 656 do not."""
    tight = replace(needed(), weights=0, parameters=0, gradients=0, optimizer_state=0, logits=0)
    assert choose_checkpointing(SpeedConfig(), tight, 460, CPU).mode is Checkpointing.none
    assert choose_checkpointing(SpeedConfig(), replace(tight, fragmentation=0.6), 460, CPU).layers == 2


def test_checkpointing_plan_description():
    large = needed(each=2**30)
    assert choose_checkpointing(SpeedConfig(), large, 5 * 2**30, CPU).describe() == (
        "recompute nothing (activations need 4.0 GiB of 4.5 GiB available)"
    )
    settings = SpeedConfig(gradient_checkpointing=Checkpointing.layers, checkpointed_layers=3)
    assert (
        choose_checkpointing(settings, needed(), 0, CPU).describe()
        == "recompute the first 3 decoder layers (as configured)"
    )
    settings = SpeedConfig(gradient_checkpointing=Checkpointing.selective)
    assert choose_checkpointing(settings, needed(), 0, CPU).describe() == (
        "recompute all 4 decoder layers except their attention (as configured)"
    )
    without = needed(layers=0)
    assert choose_checkpointing(SpeedConfig(), without, 0, CPU).describe() == (
        "recompute nothing (the layers of this family cannot be recomputed)"
    )


@pytest.mark.parametrize(("device", "last"), [(CPU, []), (CUDA, [("offload", 6)])])
def test_next_checkpointing_level_adds_a_quarter(device, last):
    steps, now = [], CheckpointingPlan(Checkpointing.none, 0, "")
    while (now := next_checkpointing_level(now, 6, device)) is not None:
        steps.append((now.mode.value, now.layers))
        assert now.reason == "memory ran out"
    assert steps == [("layers", 2), ("layers", 4), ("full", 6), *last]


def test_decoder_layers_of_a_hybrid():
    config = BambaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16, mamba_d_state=8,
    )  # fmt: skip
    assert len(decoder_layers(AutoModelForCausalLM.from_config(config))) == 2
    assert len(decoder_layers(AutoModelForCausalLM.from_config(LlamaConfig(hidden_size=32, num_hidden_layers=3,
        intermediate_size=32, num_attention_heads=2, num_key_value_heads=2, vocab_size=32)))) == 3  # fmt: skip
