"""Flex attention, compiled for the card, in the order of a run: training on rows of many lengths, then evaluation."""

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from acceptance.findings import Check
from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention.flex import packed_flex_attention
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length

KINDS = {
    "sinks": {"width": 64, "window": 128, "softcap": None, "sinks": True},
    "softcap": {"width": 256, "window": None, "softcap": 50.0, "sinks": False},
}
"""Layers as gpt-oss and Gemma 2 have them."""
TOLERANCE = 0.02
"""Of outputs; of gradients, relative to their largest."""


def cases(check: Check) -> Iterator[tuple[str, Any, int, list[int], bool]]:
    """Yield a name, the kind of layer, query heads of a key head, the lengths of a row, and whether it is trained."""
    for trained in (True, False):
        for name, kind in KINDS.items():
            for group in check.sizes["groups"]:
                for tokens in check.sizes["tokens"]:
                    lengths = [tokens // 3, tokens - tokens // 3]
                    yield f"{name}, {group} to a key head, {tokens} tokens", kind, group, lengths, trained


def compute(kind: dict[str, Any], group: int, lengths: list[int], trained: bool, device: str) -> list[torch.Tensor]:
    """Return the output of a layer and its gradients: of flex attention on a card, of one call a length on a CPU."""
    generator, heads = torch.Generator().manual_seed(0), (2 * group, 2, 2)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    states = [
        torch.randn(1, count, sum(lengths), kind["width"], generator=generator)
        .bfloat16()
        .to(device, dtype)
        .requires_grad_(trained)
        for count in heads
    ]
    sinks = torch.linspace(-1, 1, heads[0]).to(device) if kind["sinks"] else None
    spec = AttentionSpec(kind["width"] ** -0.5, kind["window"], kind["softcap"], sinks=sinks)
    function = packed_flex_attention if device == "cuda" else attention_by_length
    with torch.set_grad_enabled(trained):
        out = function(*states, pack_row(lengths).to(torch.device(device)), spec)
    if trained:
        out.float().pow(2).sum().backward()
    return [part.detach().float().cpu() for part in (out, *(state.grad for state in states if trained))]


def flex(check: Check) -> None:
    """Compute every case on the card and on the CPU; no case falls back to uncompiled attention."""
    check.outcome_of("flex_compile")
    worst = 0.0
    for name, *case, trained in cases(check):
        try:
            found, expected = (compute(*case, trained, device) for device in ("cuda", "cpu"))
        except Exception as error:  # the other cases still run
            check.found.expect(False, f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        apart = [(own - other).abs().max().item() for own, other in zip(found, expected, strict=True)]
        scale = [1.0, *(other.abs().max().item() for other in expected[1:])]
        relative = max(one / unit for one, unit in zip(apart, scale, strict=True))
        worst = max(worst, relative)
        check.found.number(largest_difference=worst)
        check.found.expect(relative <= TOLERANCE, f"{name}: differs from the CPU by {relative:.1e}")
    if check.dry:
        check.found.skip("launches of compiled kernels: the simulator runs flex attention as it is written")
        return
    from torch._dynamo.utils import counters

    check.found.number(graphs=counters["stats"]["unique_graphs"], breaks=dict(counters["graph_break"]))


def flex_compile(check: Check) -> None:
    """Compile what ``flex`` computes, while other checks run: torch keeps the kernels on the disk."""
    if not check.dry:
        for _, *case in cases(check):
            compute(*case, "cuda")
        return
    if find_spec("triton") is None:
        check.found.skip("compilation: triton is not installed", everything=True)
        return
    given = [
        {"heads": [2 * group, 2], "widths": [kind["width"]] * 2, "rows": [lengths], **kind}
        for _, kind, group, lengths, trained in cases(check)
        if trained
    ]
    status = check.start(
        [sys.executable, "-m", "tests.cuda_simulator.compile_flex", json.dumps(given)], "compile.txt"
    ).wait()
    lines = [json.loads(line) for line in check.text("compile.txt").splitlines() if line.startswith("{")]
    check.found.number(compiled=len(lines), shared=max((line["shared"] for line in lines), default=0))
    check.found.expect(status == 0, f"compilation ended with {status}")
    for line in lines:
        check.found.expect(line["error"] is None, str(line["error"]))
