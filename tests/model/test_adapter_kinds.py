"""Every kind of adapter: it starts at the base, learns, is saved and loaded, merges, and packs exactly."""

import copy
from dataclasses import dataclass

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import (
    AdapterConfig,
    AdapterKind,
    Init,
    OftConfig,
    QuantConfig,
    QuantKind,
    TrainStopToken,
    VeraConfig,
)
from sft_cli.config.schema.config import ModelConfig
from sft_cli.model.adapter.add import add_adapter, load_adapter
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.load import load_model
from sft_cli.model.quant import dequantize, evaluation_mode

CPU = torch.device("cpu")
NF4 = QuantKind.nf4
ROWS = [{"input_ids": [1, *range(3 + i, 60 + i), 2]} for i in range(16)]
IDS = torch.tensor([[1, 9, 30, 31, 77, 12, 2, 5]])
SEED = 3


@dataclass(frozen=True)
class Case:
    """A row of the table of adapters."""

    config: AdapterConfig
    stored: QuantKind = QuantKind.none
    keeps: bool = True
    """Whether the initial logits are those of the base."""


def lora(**values):
    return AdapterConfig(rank=values.pop("rank", 4), alpha=values.pop("alpha", 8.0), **values)


CASES = {
    "lora": Case(lora()),
    "lora-stop-row": Case(lora(train_stop_token=TrainStopToken.always)),
    "lora-whole-head": Case(lora(modules_to_save=["lm_head"], train_stop_token=TrainStopToken.always)),
    "lora-gaussian": Case(lora(init=Init.gaussian)),
    "lora-patterns": Case(lora(rank_pattern={r".*layers\.0\..*": 2}, alpha_pattern={"q_proj": 3.0})),
    "rslora": Case(lora(rank_stabilized=True)),
    "dora": Case(lora(dora=True)),
    "dora-stop-row": Case(lora(dora=True, train_stop_token=TrainStopToken.always)),
    "pissa": Case(lora(init=Init.pissa)),
    "pissa-patterns": Case(
        lora(init=Init.pissa, rank_stabilized=True, rank_pattern={"q_proj": 2}, train_stop_token=TrainStopToken.always)
    ),
    "olora": Case(lora(init=Init.olora)),
    "eva": Case(lora(init=Init.eva)),
    "dora-eva": Case(lora(init=Init.eva, dora=True)),
    "vera": Case(AdapterConfig(kind=AdapterKind.vera, vera=VeraConfig(rank=16))),
    "ia3": Case(AdapterConfig(kind=AdapterKind.ia3, target_modules=["k_proj", "v_proj", "down_proj"])),
    "ia3-all": Case(AdapterConfig(kind=AdapterKind.ia3)),
    "oft": Case(AdapterConfig(kind=AdapterKind.oft, oft=OftConfig(block_size=16))),
    "nf4-lora": Case(lora(), NF4),
    "nf4-lora-stop-row": Case(lora(train_stop_token=TrainStopToken.always), NF4),
    "nf4-rslora": Case(lora(rank_stabilized=True), NF4),
    "nf4-dora": Case(lora(dora=True), NF4),
    "nf4-pissa": Case(lora(init=Init.pissa), NF4),
    "nf4-olora": Case(lora(init=Init.olora), NF4),
    "nf4-eva": Case(lora(init=Init.eva), NF4),
    "nf4-loftq": Case(lora(init=Init.loftq), NF4, keeps=False),
    "nf4-vera": Case(AdapterConfig(kind=AdapterKind.vera, vera=VeraConfig(rank=16)), NF4),
    "nf4-ia3": Case(AdapterConfig(kind=AdapterKind.ia3), NF4),
    "nf4-oft": Case(AdapterConfig(kind=AdapterKind.oft, oft=OftConfig(block_size=16)), NF4),
}
LEARNING_RATE = {AdapterKind.lora: 3e-3, AdapterKind.vera: 3e-2, AdapterKind.ia3: 3e-2, AdapterKind.oft: 3e-3}
table = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


@pytest.fixture
def base(saved):
    """Load the tiny Llama with the storage of a case."""

    def load(stored=QuantKind.none, dtype=torch.float32) -> PreTrainedModel:
        return load_model(
            ModelConfig(path=str(saved)), QuantConfig(kind=stored), full=False, device=CPU, compute_dtype=dtype
        )

    return load


@pytest.fixture
def adapt(base, saved):
    """Load a new base and add the adapter of a case."""

    def make(case: Case, dtype=torch.float32) -> PeftModel:
        source = ModelConfig(path=str(saved))
        return add_adapter(base(case.stored, dtype), case.config, [2], seed=SEED, rows=ROWS, source=source).model

    return make


def logits(model) -> torch.Tensor:
    with evaluation_mode(model):
        return model(input_ids=IDS, use_cache=False).logits


def trained(model):
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def train(model, case, steps=8) -> list[float]:
    """Train on one row and return the loss of each step."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=LEARNING_RATE[case.config.kind])
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def distance(first, second) -> float:
    return (first - second).abs().max().item()


@table
def test_adapter_starts_at_the_base_learns_and_loads_again(case, base, adapt, tmp_path):
    model = adapt(case)
    before = logits(model)
    if case.keeps:
        assert distance(before, logits(base(case.stored))) < 1e-4
    losses = train(model, case)
    assert losses[-1] < 0.9 * losses[0]
    after = logits(model)
    save_adapter(model, tmp_path / "adapter")
    opened = load_adapter(base(case.stored), tmp_path / "adapter", CPU)
    assert distance(logits(opened), after) < 1e-4
    assert distance(after, before) > 0.1


@table
def test_adapter_merges(case, base, adapt, tmp_path):
    """The base is that of training; quantized weights are dequantized first."""
    model = adapt(case)
    train(model, case)
    save_adapter(model, tmp_path / "adapter")
    plain = base(case.stored) if case.stored is QuantKind.none else dequantize(base(case.stored), torch.float32)
    opened = load_adapter(plain, tmp_path / "adapter", CPU)
    merged = opened.merge_and_unload()
    assert {type(layer).__module__ for layer in merged.modules() if isinstance(layer, torch.nn.Linear)} == {
        "torch.nn.modules.linear"
    }
    assert distance(logits(merged), logits(model)) < 1e-3


def gradients(model, loss) -> dict[str, torch.Tensor]:
    """Return the gradient of a loss by parameter, without setting the gradients of the model."""
    named = trained(model)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros(()) if value is None else value for name, value in zip(named, found, strict=True)}


@table
def test_packed_gradients_are_the_sum_of_solo_gradients(case, adapt, make_batch):
    """The reference is plain transformers, one document at a time."""
    model = adapt(case)
    train(model, case, steps=2)  # B is not 0 any more
    # PiSSA's two large terms cancel, which leaves noise of 1.4e-5 in float32; 4-bit layers have no double.
    double = case.stored is QuantKind.none
    reference = copy.deepcopy(model).double() if double else model
    batch = make_batch([5, 9, 4])
    # The second and the last token of each document are trained.
    alone = torch.zeros(())
    for number, ids in enumerate(batch.documents):
        out = reference(input_ids=ids[None], use_cache=False).logits[0, [0, len(ids) - 2]]
        own = slice(2 * number, 2 * number + 2)
        losses = torch.nn.functional.cross_entropy(out, batch.targets[own], reduction="none")
        alone = alone + (losses * batch.target_weights[own]).sum()
    expected = gradients(reference, alone)
    from sft_cli.model.head.loss_model import build_loss_model

    loss_model, probed = build_loss_model(model, 1024)
    assert probed.packed_ok
    if double:
        model.double()
    packed = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]
    found = gradients(model, packed)
    assert distance(packed, alone) < 1e-5
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * max(value.norm().item(), 1e-3), name
