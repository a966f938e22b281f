"""What the routers of a mixture of experts choose, noted and given again.

Two experts that are nearly tied are chosen by rounding, and another expert computes something else altogether: in half
precision two sound ways to compute the same attention can end in logits that differ by their own size. So where such
ways are compared, the second takes the choices of the first. That hides no leak: a router reads the hidden state of
one token, and a token that saw too much still hands other states to its experts.

Shapes: T tokens, E experts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

Routes = tuple[tuple[Tensor, ...], ...]
"""By router, in the model's order, the tensors that it returned, each ``(T, …)``."""


def routers(lm: PreTrainedModel) -> list[nn.Module]:
    """The modules whose logits transformers counts as those of routers; none in a dense model."""
    said: Any = (lm._can_record_outputs or {}).get("router_logits")
    kinds = said if isinstance(said, list | tuple) else [said]
    classes = tuple(kind.target_class if isinstance(kind, OutputRecorder) else kind for kind in kinds if kind)
    return [module for module in lm.modules() if isinstance(module, classes)]


@contextmanager
def noted(lm: PreTrainedModel) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield a list that every call of a router adds its result to."""
    found: list[tuple[Tensor, ...]] = []

    def note(_: nn.Module, __: Any, result: Any) -> None:
        found.append(result if isinstance(result, tuple) else (result,))

    handles = [router.register_forward_hook(note) for router in routers(lm)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def given(lm: PreTrainedModel, routes: Routes) -> Iterator[None]:
    """Let every router return what stands in ``routes`` for it; without routes they compute their own."""

    def instead(chosen: tuple[Tensor, ...]) -> Any:
        return lambda _, __, result: chosen if isinstance(result, tuple) else chosen[0]

    pairs = zip(routers(lm), routes, strict=True) if routes else ()
    handles = [router.register_forward_hook(instead(chosen)) for router, chosen in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_token(routes: Sequence[tuple[Tensor, ...]], tokens: int, number: int) -> Routes:
    """The routes of one document of ``tokens`` tokens, if each of ``number`` routers gave tensors ``(T, …)`` once.

    Otherwise an empty tuple: what such routers return cannot be cut and joined by token.
    """
    whole = all(isinstance(one, Tensor) and one.shape[:1] == (tokens,) for route in routes for one in route)
    return tuple(routes) if whole and len(routes) == number else ()


def joined(parts: Sequence[Routes]) -> Routes:
    """The routes of documents laid end to end; empty if those of one are missing."""
    if not all(parts):
        return ()
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*same_router, strict=True))
        for same_router in zip(*parts, strict=True)
    )


def cut(routes: Routes, first: int, end: int) -> Routes:
    """The routes of some of a document's tokens."""
    return tuple(tuple(one[first:end] for one in route) for route in routes)
