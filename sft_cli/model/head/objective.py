"""The objective at a trained position and its derivative with respect to the logits, in closed form.

Shapes: C positions, V vocabulary. For one position: logits z, target y, p = softmax(z), L = log sum exp z.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sft_cli.config.schema.trainer import LossConfig


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The objective at some positions.

    Attributes:
        values: ``(K, C)`` float32 nats by term, in the order of ``term_names``.
        gradient: ``(C, V)`` derivative of the first term, the whole objective, with respect to the logits, or None.
    """

    values: Tensor
    gradient: Tensor | None


def term_names(loss: LossConfig) -> tuple[str, ...]:
    """Return the names of the terms: the whole objective, plain cross-entropy, and every other term that is on."""
    active = {"smoothing": loss.label_smoothing, "z": loss.z_loss, "dft": loss.dft, "kl": loss.kl}
    return ("loss", "nll", *(name for name, on in active.items() if on))


def loss_and_gradient(
    logits: Tensor, targets: Tensor, loss: LossConfig, base: Tensor | None = None, *, gradient: bool = True
) -> LossTerms:
    """Return the objective at C positions; ``loss`` = (``dft``, or else ``nll``) + ``smoothing`` + ``z`` + ``kl``.

    - ``nll`` = L - z_y, the cross-entropy.
    - ``smoothing`` = f e (z_y - mean z): the target distribution is (1 - e) at y and e / V everywhere (label smoothing,
      Szegedy et al. 2015, arXiv:1512.00567, section 7).
    - ``z`` = c L^2 (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    - ``dft`` = f nll with f = p_y, held constant in the derivative (Wu et al. 2025, arXiv:2508.05629, equation 9);
      without DFT f = 1.
    - ``kl`` = b sum_v q_v (log q_v - log p_v) with q the base's softmax: forward KL(base || model).

    The derivative of ``loss`` is (f + 2 c L + b) p - f e / V - b q, minus f (1 - e) at y.

    Args:
        logits: ``(C, V)`` float32; may be overwritten and become the gradient.
        targets: ``(C,)``.
        loss: The factors of the terms.
        base: ``(C, V)`` float32 logits of the base, may be overwritten; needed if ``loss.kl`` is above 0.
        gradient: Whether to compute the derivative.
    """
    with torch.autocast(logits.device.type, enabled=False):  # float32 throughout; autocast would round products
        return _loss_and_gradient(logits, targets, loss, base, gradient=gradient)


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, loss: LossConfig, base: Tensor | None, *, gradient: bool
) -> LossTerms:
    """Compute loss and gradient like ``loss_and_gradient``, without autocast."""
    target_column = targets[:, None]
    target_logits = logits.gather(1, target_column)[:, 0]
    logp = _log_softmax(logits)
    nll = -logp.gather(1, target_column)[:, 0]
    values: dict[str, Tensor] = {"nll": nll}
    factor = torch.exp(-nll) if loss.dft else None
    if factor is not None:
        values["dft"] = factor * nll
    total = values["dft"] if factor is not None else nll
    scale = factor  # (C,) of p in the derivative; None is 1
    if loss.label_smoothing:
        values["smoothing"] = loss.label_smoothing * (-nll - logp.mean(dim=-1))
        if factor is not None:
            values["smoothing"] = factor * values["smoothing"]
        total = total + values["smoothing"]
    if loss.z_loss:
        normalizer = target_logits + nll
        values["z"] = loss.z_loss * normalizer.square()
        total, scale = total + values["z"], (1.0 if scale is None else scale) + 2 * loss.z_loss * normalizer
    reference_probs = None
    if loss.kl:
        assert base is not None, "KL needs the logits of the base"
        logq = _log_softmax(base)
        reference_probs = logq.exp()
        values["kl"] = loss.kl * torch.linalg.vecdot(reference_probs, logq.sub_(logp))
        total, scale = total + values["kl"], (1.0 if scale is None else scale) + loss.kl
    values["loss"] = total
    stacked = torch.stack([values[name] for name in term_names(loss)])
    if not gradient:
        return LossTerms(stacked, None)
    return LossTerms(stacked, _gradient(logp, target_column, loss, factor, scale, reference_probs))


def _log_softmax(logits: Tensor) -> Tensor:
    """Return ``(C, V)`` log probabilities; on a CPU in the same memory, because allocation costs more than the sums."""
    return torch.log_softmax(logits, dim=-1, out=logits if logits.device.type == "cpu" else None)


def _gradient(
    logp: Tensor,
    target_column: Tensor,
    loss: LossConfig,
    factor: Tensor | None,
    scale: Tensor | float | None,
    reference_probs: Tensor | None,
) -> Tensor:
    """Return the ``(C, V)`` derivative of the whole objective, in the memory of the log probabilities."""
    gradient_buffer = logp.exp_()
    if scale is not None:
        gradient_buffer.mul_(scale[:, None] if isinstance(scale, Tensor) else scale)
    if reference_probs is not None:
        gradient_buffer.sub_(reference_probs, alpha=loss.kl)
    target_mass = torch.ones_like(target_column, dtype=gradient_buffer.dtype) if factor is None else factor[:, None]
    if loss.label_smoothing:
        gradient_buffer.sub_(target_mass, alpha=loss.label_smoothing / gradient_buffer.shape[-1])
    return gradient_buffer.scatter_add_(1, target_column, target_mass * (loss.label_smoothing - 1.0))
