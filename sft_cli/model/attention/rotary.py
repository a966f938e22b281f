"""Rotary embeddings whose frequencies depend on the length of the document, in rows of several documents.

LongRoPE (arXiv:2402.13753; Phi-3 and Phi-4) has one set of factors up to the original length and another beyond it.
Dynamic scaling computes the frequencies from the length. transformers uses the length of the longest document in the
row, and with dynamic scaling also of earlier rows. Here each document gets the frequencies of its own length.

Shapes: T tokens of the row, R width of the embeddings.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from sft_cli.batching.packed_row import PACKED_ROW_KWARG, PackedRow, pack_row
from sft_cli.model.quant import causal_lm

PROBED_TOKENS = 5
"""Number of tokens of the short document in the check of the embeddings."""


class MixedLengthsError(ValueError):
    """Documents that share a prefix have different frequencies."""


@dataclass
class DocumentRotary:
    """The ``forward`` of a rotary embedding with frequencies by length.

    Attributes:
        module: The embedding.
        original: The original length: number of tokens up to which documents have the frequencies of short ones.
        dynamic: Whether each longer length has its own frequencies; otherwise all longer documents have the same.
        row: The row of the current forward pass; None if each row is one document.
    """

    module: nn.Module
    original: int
    dynamic: bool
    row: PackedRow | None = None

    def __call__(self, x: Tensor, position_ids: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, ``(1, T, R)`` each."""
        groups = [] if self.row is None else self.token_groups(self.row)
        if len(groups) < 2:
            return self.forward_alone(x, position_ids, **kwargs)
        indices = [torch.tensor(group).to(x.device, non_blocking=True) for group in groups]
        parts = [self.forward_alone(x, position_ids[:, index], **kwargs) for index in indices]
        order = torch.cat(indices).argsort()
        cosines, sines = (torch.cat(tensors, dim=1)[:, order] for tensors in zip(*parts, strict=True))
        return cosines, sines

    def forward_alone(self, x: Tensor, position_ids: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run the embedding's own forward on tokens with the same frequencies, independent of earlier calls."""
        if self.dynamic:
            state: Any = self.module
            state.max_seq_len_cached, state.inv_freq = self.original, state.original_inv_freq.to(x.device)
        return type(self.module).forward(self.module, x, position_ids, **kwargs)

    def frequencies_of(self, length: int) -> int:
        """Return a number that is equal for lengths with the same frequencies."""
        return 0 if length <= self.original else length if self.dynamic else 1

    def token_groups(self, row: PackedRow) -> list[list[int]]:
        """Return the indices of the row's tokens, grouped by equal frequencies.

        Raises:
            MixedLengthsError: Documents with a shared prefix have different frequencies.
        """
        roots = [next(iter(row.ancestors(segment)), segment) for segment in range(len(row.lengths))]
        parents = set(row.parents)
        by_root: dict[int, set[int]] = {}
        for segment, (root, length) in enumerate(zip(roots, row.key_lengths, strict=True)):
            if segment not in parents:  # a document, not a prefix
                by_root.setdefault(root, set()).add(self.frequencies_of(length))
        if any(len(frequencies) > 1 for frequencies in by_root.values()):
            raise MixedLengthsError("documents of different lengths share a prefix, and their embeddings differ")
        groups: dict[int, list[int]] = {}
        starts = accumulate(row.lengths, initial=0)
        for root, length, start in zip(roots, row.lengths, starts, strict=False):
            groups.setdefault(min(by_root[root]), []).extend(range(start, start + length))
        return list(groups.values())


@dataclass
class RowHook:
    """A forward pre-hook of the model that passes its row to the embeddings.

    It is an object, not a function, so that a copy of the model sets the rows of its own embeddings.
    """

    embeddings: list[DocumentRotary]

    def __call__(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        """Take the row from the arguments; without this argument, each row is a document."""
        for embedding in self.embeddings:
            embedding.row = kwargs.get(PACKED_ROW_KWARG)


def install_document_rotary(model: nn.Module) -> list[DocumentRotary]:
    """Replace the forward of embeddings whose frequencies depend on the length; return all that are replaced now."""
    lm = causal_lm(model)
    embeddings = [embedding for module in lm.modules() if (embedding := _document_rotary(module)) is not None]
    new = [embedding for embedding in embeddings if vars(embedding.module).get("forward") is not embedding]
    for embedding in new:
        embedding.module.forward = embedding
    if new:
        lm.base_model.register_forward_pre_hook(RowHook(new), with_kwargs=True)
    return embeddings


def _document_rotary(module: nn.Module) -> DocumentRotary | None:
    """Return the replacement of a rotary embedding whose frequencies depend on the length; None for other modules."""
    attributes = vars(module)
    if isinstance(installed := attributes.get("forward"), DocumentRotary):
        return installed
    kind = attributes.get("rope_type")
    if not isinstance(kind, str) or not depends_on_length(kind):
        return None
    if kind == "longrope":
        return DocumentRotary(module, attributes["config"].rope_parameters["original_max_position_embeddings"], False)
    return DocumentRotary(module, attributes["original_max_seq_len"], True)


def depends_on_length(rope_type: str) -> bool:
    """Return whether transformers computes the frequencies of this type from the length of the row."""
    return "dynamic" in rope_type or rope_type == "longrope"


def rotary_problem(model: nn.Module) -> str:
    """Compare embeddings of a row with a short and a long document with those of each document in its own row.

    Returns:
        The problem, as a clause for the log; empty if they are equal.
    """
    lm = causal_lm(model)
    kinds = [vars(module).get("rope_type") for module in lm.modules()]
    if any(depends_on_length(kind) for by_layer in kinds if isinstance(by_layer, dict) for kind in by_layer.values()):
        return "some of its layers have rotary embeddings that depend on the length of the row"
    for embedding in install_document_rotary(model):
        lengths = (embedding.original + 1, min(PROBED_TOKENS, embedding.original))
        x = torch.zeros(1, 1, 1, device=lm.device)
        alone = [embedding.forward_alone(x, torch.arange(length, device=lm.device)[None]) for length in lengths]
        embedding.row = pack_row(lengths)
        packed = embedding(x, embedding.row.positions.to(lm.device))
        embedding.row = None
        expected = [torch.cat(tensors, dim=1) for tensors in zip(*alone, strict=True)]
        if not all(torch.equal(actual, wanted) for actual, wanted in zip(packed, expected, strict=True)):
            return "its rotary embeddings depend on the other documents of the row"
    return ""


def shares_frequencies(model: nn.Module, longest: int | None) -> bool:
    """Return whether all documents of up to ``longest`` tokens (None: unknown) have the same frequencies."""
    embeddings = install_document_rotary(model)
    return all(longest is not None and longest <= embedding.original for embedding in embeddings)
