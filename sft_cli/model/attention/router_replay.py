"""Record the choices of the routers in a mixture of experts, and replay them.

If two experts have nearly the same score, rounding decides between them, and their outputs are unrelated: in half
precision, two correct ways to compute the same attention can give logits that differ by as much as their own size. So
when such computations are compared, the second one replays the routes of the first. This hides no error: a router reads
the hidden state of one token, and a token that attended to too much still passes other states to its experts.

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
    """Return the modules whose outputs transformers records as router logits; empty for a dense model."""
    recorder_spec: Any = (lm._can_record_outputs or {}).get("router_logits")
    specs = recorder_spec if isinstance(recorder_spec, list | tuple) else [recorder_spec]
    classes = tuple(kind.target_class if isinstance(kind, OutputRecorder) else kind for kind in specs if kind)
    return [module for module in lm.modules() if isinstance(module, classes)]


@contextmanager
def record_routes(lm: PreTrainedModel) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield a list to which every call of a router in the block appends its result."""
    results: list[tuple[Tensor, ...]] = []

    def record(_: nn.Module, __: Any, result: Any) -> None:
        results.append(result if isinstance(result, tuple) else (result,))

    handles = [router.register_forward_hook(record) for router in router_modules(lm)]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replay_routes(lm: PreTrainedModel, routes: Routes) -> Iterator[None]:
    """Let every router return its entry of ``routes`` inside the block; without routes, they compute their own."""

    def make_hook(recorded: tuple[Tensor, ...]) -> Any:
        return lambda _, __, result: recorded if isinstance(result, tuple) else recorded[0]

    pairs = zip(router_modules(lm), routes, strict=True) if routes else ()
    handles = [router.register_forward_hook(make_hook(recorded)) for router, recorded in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def routes_by_token(routes: Sequence[tuple[Tensor, ...]], tokens: int, num_routers: int) -> Routes:
    """Return a document's routes if each of ``num_routers`` routers returned tensors ``(T, …)`` once.

    Otherwise return an empty tuple, because such results cannot be sliced and concatenated by token.
    """
    complete = all(isinstance(tensor, Tensor) and tensor.shape[:1] == (tokens,) for route in routes for tensor in route)
    return tuple(routes) if complete and len(routes) == num_routers else ()


def concat_routes(parts: Sequence[Routes]) -> Routes:
    """Concatenate the routes of the documents of a row; return an empty tuple if those of a document are missing."""
    if not all(parts):
        return ()
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*same_router, strict=True))
        for same_router in zip(*parts, strict=True)
    )


def slice_routes(routes: Routes, first: int, end: int) -> Routes:
    """Return the routes of tokens ``first`` to ``end - 1`` of a document."""
    return tuple(tuple(tensor[first:end] for tensor in route) for route in routes)
