"""Gradients under recomputation and offloading, many times over: a missing wait for a copy shows sooner or later."""

import torch
from step_model import Case, make_base, make_row, make_trained, settings_of

from acceptance.findings import Check
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing


def offload(check: Check) -> None:
    """Compare the gradients of every way to recompute with those of a step that keeps everything."""
    device = torch.device("cuda", 0)
    case = Case(device="cuda", **check.sizes["case"])
    settings = settings_of(case)
    torch.manual_seed(0)
    base, _ = make_base(case, settings)
    model, loss_model, _ = make_trained(case, settings, base, CheckpointingPlan(Checkpointing.none, 0, ""))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        if "lora_B" in name:  # zeros, under which the gradients of lora_A are zero
            value.data.normal_(std=0.02)
    row = [part.to(device) for part in make_row(case, settings.config.vocab_size)]

    def gradients() -> dict[str, torch.Tensor]:
        loss_model.zero_grad()
        with settings.machine.precision():
            loss_model(*row)["loss"].backward()
        return {name: value.grad.clone() for name, value in trained.items() if value.grad is not None}

    expected, layers = gradients(), settings.config.num_hidden_layers
    modes = {Checkpointing.offload: check.sizes["repeats"], Checkpointing.selective: 1, Checkpointing.full: 1}
    for mode, repeats in modes.items():
        apply_checkpointing(model, CheckpointingPlan(mode, layers, ""))
        worst = 0.0
        for _ in range(repeats):
            found = gradients()
            worst = max(worst, *(difference(found[name], value) for name, value in expected.items()))
        check.found.number(**{f"difference_{mode.value}": worst})
        check.found.expect(worst <= check.sizes["tolerance"], f"{mode.value}: a gradient differs by {worst:.1e}")


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative norm of the difference of two tensors."""
    return ((found - expected).norm() / expected.norm().clamp_min(1e-20)).item()
