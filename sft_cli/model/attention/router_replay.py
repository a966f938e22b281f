"""Record the choices of the routers in a mixture of experts, and replay them.

Where two experts are nearly tied, rounding decides, and another expert computes something else altogether: in half
precision two correct ways to compute the same attention can end in logits that differ by their own size. So where such
ways are compared, the second replays the choices of the first. That hides no leak: a router reads the hidden state of
one token, and a token that saw too much still passes other states to its experts.

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
"""For each router, in the model's order, the tensors that it returned, each ``(T, …)``."""


def router_modules(lm: PreTrainedModel) -> list[nn.Module]:
    """Return the modules whose outputs transformers records as router logits; none in a dense model."""
    recorder_spec: Any = (lm._can_record_outputs or {}).get("router_logits")
    specs = recorder_spec if isinstance(recorder_spec, list | tuple) else [recorder_spec]
    classes = tuple(kind.target_class if isinstance(kind, OutputRecorder) else kind for kind in specs if kind)
    return [module for module in lm.modules() if isinstance(module, classes)]


@contextmanager
def record_routes(lm: PreTrainedModel) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield a list to which every call of a router in the block appends its result."""
    results: list[tuple[Tensor, ...]] = []

    def note(_: nn.Module, __: Any, result: Any) -> None:
        results.append(result if isinstance(result, tuple) else (result,))

    handles = [router.register_forward_hook(note) for router in router_modules(lm)]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replay_routes(lm: PreTrainedModel, routes: Routes) -> Iterator[None]:
    """Let every router in the block return its entry of ``routes``; without routes they compute their own."""

    def instead(chosen: tuple[Tensor, ...]) -> Any:
        return lambda _, __, result: chosen if isinstance(result, tuple) else chosen[0]

    pairs = zip(router_modules(lm), routes, strict=True) if routes else ()
    handles = [router.register_forward_hook(instead(chosen)) for router, chosen in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def routes_by_token(routes: Sequence[tuple[Tensor, ...]], tokens: int, number: int) -> Routes:
    """Return a document's routes, if each of ``number`` routers returned tensors ``(T, …)`` once.

    Otherwise return an empty tuple: such results cannot be sliced and concatenated by token.
    """
    whole = all(isinstance(one, Tensor) and one.shape[:1] == (tokens,) for route in routes for one in route)
    return tuple(routes) if whole and len(routes) == number else ()


def concat_routes(parts: Sequence[Routes]) -> Routes:
    """Concatenate the routes of the documents of a row; return an empty tuple if those of one are missing."""
    if not all(parts):
        return ()
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*same_router, strict=True))
        for same_router in zip(*parts, strict=True)
    )


def slice_routes(routes: Routes, first: int, end: int) -> Routes:
    """Return the routes of some of a document's tokens."""
    return tuple(tuple(one[first:end] for one in route) for route in routes)
