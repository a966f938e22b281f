"""Beginnings of LoRA that read the base's weights or its activations.

PiSSA and OLoRA begin with A0, B0 != 0 cut out of a weight W: what stays frozen is W - s B0 A0 (s = alpha / rank).
Here W itself is never changed: a frozen copy of B0 A0 is subtracted beside it (see ``frozen``), which is the same sum.
So the base can be quantised, "adapter off" is still the base, and resuming needs no mutated weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from peft import LoraConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import EvaConfig, LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import Init, QuantConfig
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.load import load_model
from sft_cli.model.quant import causal_lm, evaluating, plain_linear, quantized_layers

ADAPTER = "default"
"""PEFT's name of the adapter that is trained."""
EXACT_SIZE = 1024
"""Matrices up to this size are decomposed whole; of larger ones only the leading part is computed."""
ITERATIONS = 16
"""Power iterations for the leading part of a large matrix."""
EVA_ROWS = 64
"""Rows that EVA looks at, in batches of EVA_BATCH."""
EVA_BATCH = 8
EVA_PASSES = 50
"""Passes over those rows after which EVA must have settled."""


def lora_layers(model: nn.Module, adapter: str = ADAPTER) -> dict[str, LoraLayer]:
    """The layers with matrices A and B of an adapter, by name."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name: layer for name, layer in layers.items() if adapter in layer.lora_A}


def matrices(layer: LoraLayer, adapter: str = ADAPTER) -> tuple[Tensor, Tensor]:
    """A ``(rank, in)`` and B ``(out, rank)`` of one adapter."""
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    return a, b


def set_matrices(layer: LoraLayer, a: Tensor, b: Tensor, adapter: str = ADAPTER) -> None:
    """Copy values into A and B."""
    for own, value in zip(matrices(layer, adapter), (a, b), strict=True):
        own.copy_(value)


def base_weight(layer: LoraLayer) -> Tensor:
    """The frozen weight of a layer as float32 ``(out, in)``, dequantised where it is quantised."""
    base = layer.get_base_layer()
    if quantized_layers(base):
        return plain_linear(base, torch.float32).weight.detach()
    assert isinstance(base, nn.Linear | Conv1D)
    weight = base.weight.detach().float()
    return weight.T if isinstance(base, Conv1D) else weight


@torch.no_grad()
def cut_out(model: PeftModel, init: Init, seed: int) -> None:
    """Set A and B of every layer from its weight: PiSSA or OLoRA."""
    for layer in lora_layers(model).values():
        make = pissa if init is Init.pissa else olora
        a, b = make(base_weight(layer), layer.r[ADAPTER], layer.scaling[ADAPTER], seed)
        set_matrices(layer, a, b)


def pissa(weight: Tensor, rank: int, scaling: float, seed: int) -> tuple[Tensor, Tensor]:
    """A ``(rank, in)`` and B ``(out, rank)`` with scaling * B @ A = the leading singular part of ``(out, in)``.

    With W = U S V: A = sqrt(S / scaling) V, B = U sqrt(S / scaling) (Meng et al. 2024, arXiv:2404.02948, section 3).
    """
    u, s, v = leading(weight, rank, seed)
    root = (s / scaling).sqrt()
    return root[:, None] * v, u * root


def olora(weight: Tensor, rank: int, scaling: float, seed: int) -> tuple[Tensor, Tensor]:
    """A = the first rows of R, B = the first columns of Q, of W = Q R (Buyukakyuz 2024, arXiv:2406.01775)."""
    del scaling, seed  # as in the paper, A and B are not scaled down; nothing is drawn
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def leading(weight: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples of ``(out, in)``: U ``(out, rank)``, S ``(rank,)``, V ``(rank, in)``.

    Large matrices by subspace iteration (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4), from a start that only
    the seed decides, whatever the device.
    """
    if min(weight.shape) <= EXACT_SIZE:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    start = torch.randn(weight.shape[1], rank + 8, generator=torch.Generator().manual_seed(seed)).to(weight)
    basis = torch.linalg.qr(weight @ start).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


@torch.no_grad()
def loftq(model: PeftModel, source: ModelConfig, seed: int) -> None:
    """Set A and B so that quantised weight + scaling * B @ A is nearest the original weight.

    One round of LoftQ (Li et al. 2023, arXiv:2310.08659, algorithm 1) in which the stored weights stay as bitsandbytes
    made them. (PEFT's function for it runs on CUDA only and forgets the scaling.)
    """
    own = next(model.parameters()).device
    original = load_model(source, QuantConfig(), full=False, device=torch.device("cpu"), compute_dtype=torch.float32)
    weights = dict(original.named_parameters())
    prefix = "base_model.model."
    for name, layer in lora_layers(model).items():
        if not quantized_layers(layer.get_base_layer()):
            continue
        weight = weights[f"{name.removeprefix(prefix)}.weight"].detach().float().to(own)
        lost = weight - base_weight(layer).to(own)
        a, b = pissa(lost, layer.r[ADAPTER], layer.scaling[ADAPTER], seed)
        set_matrices(layer, a, b)


class Batches:
    """Rows of ids as padded batches, for a limited number of passes."""

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device) -> None:
        """Group the rows by ``EVA_BATCH``."""
        groups = [rows[start : start + EVA_BATCH] for start in range(0, len(rows), EVA_BATCH)]
        self.batches = [padded(group, device) for group in groups]
        self.passes = 0

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches once more.

        Raises:
            SftError: The directions still move after many passes.
        """
        self.passes += 1
        if self.passes > EVA_PASSES:
            raise SftError(
                where="adapter.init=eva",
                problem=f"the directions of the activations have not settled after {EVA_PASSES} passes",
                fix="a smaller adapter.rank, or adapter.init=default",
            )
        return iter(self.batches)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, ``(rows, longest)``, padded on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def eva(model: PeftModel, rows: Iterable[Mapping[str, Sequence[int]]]) -> None:
    """Set A of every layer to the leading directions of its inputs on some rows (Paischer 2024, arXiv:2410.07170).

    B is 0, so nothing changes at first. Every layer keeps its rank (the paper's rho = 1), so that a resumed run has
    tensors of the same shapes.

    Args:
        model: With a plain LoRA adapter.
        rows: Training rows with ``input_ids``; the first ``EVA_ROWS`` are read.

    Raises:
        SftError: There are no rows, or fewer tokens than ranks.
    """
    lm = causal_lm(model)
    taken = [list(row["input_ids"]) for row, _ in zip(rows, range(EVA_ROWS), strict=False)]
    batches = Batches([row for row in taken if row], lm.device)
    most = max(layer.r[ADAPTER] for layer in lora_layers(model).values())
    fewest = min((int(batch["attention_mask"].sum()) for batch in batches.batches), default=0)
    if len(batches) > 1 and fewest < most:
        batches.batches.pop()  # the last one is short
        fewest = min(int(batch["attention_mask"].sum()) for batch in batches.batches)
    if fewest < most:
        raise SftError(
            where="adapter.init=eva",
            problem=f"{EVA_BATCH} training rows hold only {fewest} tokens, too few for {most} directions",
            fix=f"adapter.rank={max(1, fewest // 2)}, or adapter.init=default",
        )

    def forward(_: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
        # PEFT puts everything in evaluation mode, which would repack 4-bit weights on a CPU.
        with evaluating(lm):
            lm.base_model(**inputs, use_cache=False)

    config = model.peft_config[ADAPTER]
    assert isinstance(config, LoraConfig)
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0)
    initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)
    config.init_lora_weights, config.eva_config = True, None  # from here on it is a plain LoRA
