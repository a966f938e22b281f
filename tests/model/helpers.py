"""Tiny random models of the tested families, and reference computations by plain transformers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sft_cli.batching.packed_row import PackedRow, pack_row
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.model.memory.layer_memory import decoder_layers

VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention"]
WINDOW = 5
FAMILIES = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "gemma2-window-softcap": ("gemma2", {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0}),
    "gemma3-window": ("gemma3_text", {"sliding_window": WINDOW, "layer_types": MIXED}),
    "phi3": ("phi3", {"sliding_window": None}),
    "olmo2": ("olmo2", {}),
    "gpt-oss-sinks-moe": (
        "gpt_oss",
        {"sliding_window": WINDOW, "layer_types": MIXED, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen3-moe": ("qwen3_moe", EXPERTS),
    "qwen2-moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-v3-latent-moe": ("deepseek_v3", LATENT),
    "gemma3n": (
        "gemma3n_text",
        {"sliding_window": WINDOW, "layer_types": MIXED, "num_kv_shared_layers": 0, "laurel_rank": 8,
         "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
         "activation_sparsity_pattern": [0.0, 0.0], "intermediate_size": [64, 64]},
    ),
    "granite": ("granite", {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "attn_pdrop": 0,
            "embd_pdrop": 0,
            "resid_pdrop": 0,
        },
    ),
}  # fmt: skip
"""For each name: model type and settings that differ from ``SIZES``. Windows are smaller than shared prefixes."""

STATES = {
    "falcon-h1-hybrid": (
        "falcon_h1",
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8},
    ),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 8}),
    "qwen3-next-hybrid": (
        "qwen3_next",
        {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
         "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "shared_expert_intermediate_size": 32},
    ),
}  # fmt: skip
"""Families whose layers carry a state from token to token."""


def tiny(family: str) -> PreTrainedModel:
    """Return a float32 model of the family, always with the same weights; norms, biases and sinks are randomized."""
    kind, special = (FAMILIES | STATES)[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **special}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.train()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients by parameter name and remove them from the model."""
    taken = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def padded_loss(model: PreTrainedModel, ids: Sequence[Tensor], trained: Sequence[Tensor]) -> Tensor:
    """Return the sum of the cross-entropies in nats by transformers: padded rows, a mask, all logits.

        Args:
    model: The model with its own attention.
    ids: ``(length,)`` ids of each document.
    trained: ``(length,)`` bool of each document: whether a token is predicted.
    """
    rows = nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(own) for own in ids], batch_first=True)
    predicted = nn.utils.rnn.pad_sequence(list(trained), batch_first=True)
    logits = model(input_ids=rows, attention_mask=mask, use_cache=False).logits.float()
    each = cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
    return (each * predicted[:, 1:]).sum()


def assert_same_gradients(ours: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Check each tensor to ``tolerance`` of its largest number, or of the model's largest if that is tiny."""
    assert ours.keys() == reference.keys()
    largest = max(gradient.abs().max().item() for gradient in reference.values())
    for name, gradient in reference.items():
        scale = max(gradient.abs().max().item(), 1e-3 * largest)
        difference = (ours[name] - gradient).abs().max().item()
        assert difference <= tolerance * scale, f"{name}: {difference / scale:.1e}"


@dataclass(frozen=True)
class Tree:
    """Segments of a row: their own ids, the segment that each continues, and which of their tokens are trained."""

    ids: tuple[Tensor, ...]
    parents: tuple[int, ...]
    trained: tuple[Tensor, ...]

    def row(self) -> PackedRow:
        """Return the layout of the row."""
        return pack_row([len(own) for own in self.ids], self.parents)

    def chains(self) -> list[tuple[int, ...]]:
        """Return the segments of each document; a document ends in a segment that no other continues."""
        return [(*self.row().ancestors(leaf), leaf) for leaf in range(len(self.ids)) if leaf not in self.parents]

    def apart(self) -> "Tree":
        """Return the same documents without shared segments."""
        whole = tuple(torch.cat([self.ids[segment] for segment in chain]) for chain in self.chains())
        trained = tuple(torch.cat([self.trained[segment] for segment in chain]) for chain in self.chains())
        return Tree(whole, (-1,) * len(whole), trained)

    def arguments(self) -> dict[str, Tensor | PackedRow]:
        """Return the arguments of ``LossModel.forward``; every trained token is predicted by the token before it."""
        joined, row = torch.cat(self.ids), self.row()
        at = torch.cat(self.trained).nonzero().flatten()
        return {
            "input_ids": joined[None],
            "positions": row.positions,
            "documents": row,
            "targets": joined[at],
            "target_at": at - 1,
            "target_weights": torch.ones(len(at)),
        }


def tree(lengths: Sequence[int], parents: Sequence[int], seed: int = 0) -> Tree:
    """Return segments with random ids; two thirds of the tokens after the first of each last segment are trained."""
    generator = torch.Generator().manual_seed(seed)
    ids = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths)
    trained = [torch.rand(length, generator=generator) < 0.67 for length in lengths]
    for segment, own in enumerate(trained):
        own[0] = False
        if segment in parents:
            own[:] = False
    return Tree(ids, tuple(parents), tuple(trained))


def recompute_all(model: nn.Module) -> None:
    """Recompute every decoder layer in the backward pass."""
    layers = len(decoder_layers(model))
    apply_checkpointing(model, CheckpointingPlan(Checkpointing.full, layers, "for a test"))
