"""Objectives of the loss tests, and their values and gradients by autograd."""

import torch
from torch.nn.functional import cross_entropy, kl_div

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel

EVERY = LossConfig(label_smoothing=0.1, z_loss=0.01, dft=True, kl=0.3)

SETTINGS = {
    "plain": LossConfig(),
    "smoothing": LossConfig(label_smoothing=0.2),
    "z": LossConfig(z_loss=0.05),
    "dft": LossConfig(dft=True),
    "kl": LossConfig(kl=0.7),
    "smoothing-z": LossConfig(label_smoothing=0.2, z_loss=0.05),
    "z-kl": LossConfig(z_loss=0.05, kl=0.5),
    "every": EVERY,
}


def by_autograd(logits, targets, loss, base):
    """Return the objective of each position, ``(C,)``, by its formulas, for autograd."""
    logp = logits.log_softmax(-1)
    nll = cross_entropy(logits, targets, reduction="none")
    smoothed = cross_entropy(logits, targets, reduction="none", label_smoothing=loss.label_smoothing)
    whole = smoothed * (torch.exp(-nll).detach() if loss.dft else 1.0)
    whole = whole + loss.z_loss * logits.logsumexp(-1) ** 2
    if base is not None:
        whole = whole + loss.kl * kl_div(logp, base.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    return whole


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    assert found
    return found


def assert_same(found, expected):
    """Check every gradient to 1e-5 of its norm."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * max(value.norm().item(), 1e-3), name


LENGTHS = [6, 3, 9]
PLAIN = LossConfig()


def documents_loss(model, batch, loss=PLAIN, **options):
    use_packed_attention(model)
    return LossModel(model, packed=True, chunk=4, loss=loss, **options)(
        *batch.row, batch.targets, batch.target_at, batch.target_weights
    )
