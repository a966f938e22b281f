"""Initializations of LoRA from the base's weights or activations.

PiSSA and OLoRA take A0, B0 != 0 from a weight W, and freeze W - s B0 A0 (s = alpha / rank). Here W itself is never
changed: a frozen copy of B0 A0 is subtracted in the forward pass (see ``stacking``), which gives the same sum. So the
base can be quantized, the model without its adapter is the base, and resuming needs no changed weights.
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
from sft_cli.model.quant import causal_lm, dequantize_linear, evaluation_mode, quantized_layers

ADAPTER = "default"
"""PEFT's name of the trained adapter."""
EXACT_SVD_SIZE = 1024
"""Size up to which the SVD of a matrix is exact; for larger ones only the leading part is approximated."""
POWER_ITERATIONS = 16
"""Power iterations for the leading part of a large matrix."""
EVA_ROWS = 64
"""Number of rows that EVA reads, in batches of EVA_BATCH."""
EVA_BATCH = 8
EVA_PASSES = 50
"""Largest number of passes over those rows until EVA must have converged."""


def lora_layers(model: nn.Module, adapter: str = ADAPTER) -> dict[str, LoraLayer]:
    """Return the layers that an adapter has matrices A and B for, by name."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name: layer for name, layer in layers.items() if adapter in layer.lora_A}


def lora_matrices(layer: LoraLayer, adapter: str = ADAPTER) -> tuple[Tensor, Tensor]:
    """Return A ``(rank, in)`` and B ``(out, rank)`` of one adapter."""
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    return a, b


def set_lora_matrices(layer: LoraLayer, a: Tensor, b: Tensor, adapter: str = ADAPTER) -> None:
    """Copy values into A and B."""
    for matrix, value in zip(lora_matrices(layer, adapter), (a, b), strict=True):
        matrix.copy_(value)


def base_weight(layer: LoraLayer) -> Tensor:
    """Return the frozen weight of a layer as float32 ``(out, in)``, dequantized if needed."""
    base = layer.get_base_layer()
    if quantized_layers(base):
        return dequantize_linear(base, torch.float32).weight.detach()
    assert isinstance(base, nn.Linear | Conv1D)
    weight = base.weight.detach().float()
    return weight.T if isinstance(base, Conv1D) else weight


@torch.no_grad()
def init_from_weights(model: PeftModel, init: Init, seed: int) -> None:
    """Set A and B of every layer from its weight, by PiSSA or OLoRA."""
    for layer in lora_layers(model).values():
        make = pissa if init is Init.pissa else olora
        a, b = make(base_weight(layer), layer.r[ADAPTER], layer.scaling[ADAPTER], seed)
        set_lora_matrices(layer, a, b)


def pissa(weight: Tensor, rank: int, scaling: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return A ``(rank, in)`` and B ``(out, rank)``: scaling * B @ A is the leading singular part of ``(out, in)``.

    With W = U S V: A = sqrt(S / scaling) V, B = U sqrt(S / scaling) (Meng et al. 2024, arXiv:2404.02948, section 3).
    """
    u, s, v = top_singular_triples(weight, rank, seed)
    root = (s / scaling).sqrt()
    return root[:, None] * v, u * root


def olora(weight: Tensor, rank: int, scaling: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return A, the first rows of R, and B, the first columns of Q, of W = Q R (Buyukakyuz 2024, arXiv:2406.01775)."""
    del scaling, seed  # as in the paper, A and B are not divided by the scaling; nothing is random
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def top_singular_triples(weight: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular triples of ``(out, in)``: U ``(out, rank)``, S ``(rank,)``, V ``(rank, in)``.

    Large matrices use subspace iteration (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4), from a random start that
    depends only on the seed, not on the device.
    """
    if min(weight.shape) <= EXACT_SVD_SIZE:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    start = torch.randn(weight.shape[1], rank + 8, generator=torch.Generator().manual_seed(seed)).to(weight)
    basis = torch.linalg.qr(weight @ start).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


@torch.no_grad()
def init_loftq(model: PeftModel, source: ModelConfig, seed: int) -> None:
    """Set A and B such that quantized weight + scaling * B @ A is closest to the original weight.

    This is one round of LoftQ (Li et al. 2023, arXiv:2310.08659, algorithm 1); the weights stay as bitsandbytes
    quantized them. (PEFT's function for it runs only on CUDA and omits the scaling.)
    """
    device = next(model.parameters()).device
    original = load_model(source, QuantConfig(), full=False, device=torch.device("cpu"), compute_dtype=torch.float32)
    weights = dict(original.named_parameters())
    prefix = "base_model.model."
    for name, layer in lora_layers(model).items():
        if not quantized_layers(layer.get_base_layer()):
            continue
        weight = weights[f"{name.removeprefix(prefix)}.weight"].detach().float().to(device)
        error = weight - base_weight(layer).to(device)
        a, b = pissa(error, layer.r[ADAPTER], layer.scaling[ADAPTER], seed)
        set_lora_matrices(layer, a, b)


class PaddedBatches:
    """Token rows as padded batches, for a limited number of passes."""

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device) -> None:
        """Group the rows by ``EVA_BATCH``."""
        groups = [rows[start : start + EVA_BATCH] for start in range(0, len(rows), EVA_BATCH)]
        self.batches = [pad_batch(group, device) for group in groups]
        self.passes = 0

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the batches, as a new pass.

        Raises:
            SftError: The directions have not converged after ``EVA_PASSES`` passes.
        """
        self.passes += 1
        if self.passes > EVA_PASSES:
            raise SftError(
                where="adapter.init=eva",
                problem=f"the directions of the activations have not converged after {EVA_PASSES} passes",
                fix="adapter.init=default, or reduce adapter.rank",
            )
        return iter(self.batches)


def pad_batch(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask``, ``(rows, longest)``, padded on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def init_eva(model: PeftModel, rows: Iterable[Mapping[str, Sequence[int]]]) -> None:
    """Set A of every layer to the leading directions of its inputs on some rows (Paischer 2024, arXiv:2410.07170).

    B is 0, so the model does not change. Every layer keeps its rank (the paper's rho = 1), so that a resumed run has
    tensors of the same shapes.

    Args:
        model: The model with a plain LoRA adapter.
        rows: Training rows with ``input_ids``; the first ``EVA_ROWS`` are read.

    Raises:
        SftError: The rows have fewer tokens than the adapter has ranks.
    """
    lm = causal_lm(model)
    first_rows = [list(row["input_ids"]) for row, _ in zip(rows, range(EVA_ROWS), strict=False)]
    batches = PaddedBatches([row for row in first_rows if row], lm.device)
    max_rank = max(layer.r[ADAPTER] for layer in lora_layers(model).values())
    min_tokens = min((int(batch["attention_mask"].sum()) for batch in batches.batches), default=0)
    if len(batches) > 1 and min_tokens < max_rank:
        batches.batches.pop()  # the last one is short
        min_tokens = min(int(batch["attention_mask"].sum()) for batch in batches.batches)
    if min_tokens < max_rank:
        raise SftError(
            where="adapter.init=eva",
            problem=f"{EVA_BATCH} training rows have only {min_tokens} tokens, too few for {max_rank} directions",
            fix=f"adapter.rank={max(1, min_tokens // 2)}, or adapter.init=default",
        )

    def forward(_: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
        """Run the model on a batch."""
        # PEFT sets all modules to evaluation mode, which would repack 4-bit weights on a CPU.
        with evaluation_mode(lm):
            lm.base_model(**inputs, use_cache=False)

    config = model.peft_config[ADAPTER]
    assert isinstance(config, LoraConfig)
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0)
    initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)
    config.init_lora_weights, config.eva_config = True, None  # from now on, the adapter is a plain LoRA
