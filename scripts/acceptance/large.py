"""Models of real sizes with random weights: speed, memory against the estimate, memory that runs out, profile."""

from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from train_work import floor_flops

from acceptance.findings import Check, largest_difference
from acceptance.training import Trained, Work, train
from sft_cli.train import loop, step

GIB = 2**30
AIM = 0.45
"""Least share of the floor that an 8B QLoRA must reach."""
CEILING = 790.0
"""TFLOP/s of one H200, where the check ``machine`` has not measured them."""
WORKSPACE = 2**25
"""Bytes that libraries may keep after a failed step."""
SAME = {True: 1e-6, False: 1e-3}
"""Largest relative difference of losses that should be equal, by whether the card is simulated."""


def qlora_8b(check: Check) -> None:
    """Train an 8B-shaped QLoRA on 8,192 tokens a step, and on 4,096 with every layer recomputed."""
    work, warm = Work(**check.sizes["work"]), check.sizes["warm"]
    background = [name for name in ("flex_compile", "quickstart_cpu") if is_running(check, name)]
    trained = train(check, "8k", work, "quant=nf4", *check.sizes["words"])
    compare_memory(check, "8k", trained)
    check.found.number(plan=trained.plan, background=background)
    if not check.dry:
        rows = [[(work.length, work.length // 2)] * work.documents]
        flops = floor_flops(work.shape, rows) / work.tokens
        floor, speed = ceiling(check) * 1e12 / flops, trained.speed(warm)
        check.found.number(tokens_per_second=speed, floor=floor, share=speed / floor)
        check.found.expect(speed >= AIM * floor, f"{speed:,.0f} tokens/s are less than {AIM:.0%} of {floor:,.0f}")
    small = Work(**check.sizes["small"])
    recomputed = train(check, "4k", small, "quant=nf4", "speed.gradient_checkpointing=full", *check.sizes["words"])
    compare_memory(check, "4k", recomputed)
    limit = check.sizes["peak_4k"]
    check.found.expect(recomputed.peak <= limit, f"4k: {recomputed.peak / GIB:.2f} GiB, more than {limit / GIB} GiB")
    if check.dry:
        check.found.skip("tokens per second: the card is simulated")


def is_running(check: Check, other: str) -> bool:
    """Whether a check in the background is still running."""
    place = check.directory.parent / other
    return place.is_dir() and not (place / "outcome.json").exists()


def ceiling(check: Check) -> float:
    """Return the TFLOP/s of products that the check ``machine`` measured in this run, else those of an H200."""
    if (check.directory.parent / "machine" / "outcome.json").exists():
        return check.outcome_of("machine")["numbers"].get("tflops", CEILING)
    return CEILING


def compare_memory(check: Check, name: str, trained: Trained) -> None:
    """Record the peak and hold it against the estimate."""
    low, high = check.sizes["peak"]
    ratio = trained.peak / trained.estimate
    found = {"peak": trained.peak, "peak_before": trained.peak_before, "estimate": trained.estimate, "ratio": ratio}
    check.found.number(**{f"{key}_{name}": value for key, value in found.items()})
    check.found.expect(low <= ratio <= high, f"{name}: the peak is {ratio:.2f} of the estimate, not {low} to {high}")


def shared_prefix(check: Check) -> None:
    """Train rows with a long common beginning, and a model with norms of queries and keys."""
    for name, given in check.sizes["works"].items():
        work = Work(**given)
        trained = train(check, name, work, "quant=nf4", *check.sizes["words"])
        compare_memory(check, name, trained)
        computed = sum(line["computed_tokens"] for line in trained.steps)
        share = computed / sum(line["tokens"] for line in trained.steps)
        check.found.number(**{f"computed_{name}": share})
        if not check.dry:
            check.found.number(**{f"tokens_per_second_{name}": trained.speed(1)})
        check.found.expect(not work.shared or share < 0.5, f"{name}: {share:.0%} of the tokens were computed")


def out_of_memory(check: Check) -> None:
    """Give the first step a share of what it needs: it is repeated with more recomputation and the same loss."""
    work, words = Work(**check.sizes["work"]), check.sizes["words"]
    total, real = torch.cuda.get_device_properties(0).total_memory, step.accumulate_gradients
    needed: list[int] = []
    before: list[int] = []
    attempts: list[int] = []

    def measured(*arguments: Any) -> Any:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        terms = real(*arguments)
        needed.append(torch.cuda.max_memory_allocated() - start)
        return terms

    def tight(*arguments: Any) -> Any:
        before.append(torch.cuda.memory_allocated())
        if len(before) == 1:
            torch.cuda.empty_cache()
            limit = torch.cuda.memory_reserved() + check.sizes["share"] * needed[0]
            torch.cuda.set_per_process_memory_fraction(limit / total)
        terms = real(*arguments)
        attempts.append(len(before))
        return terms

    with patch.object(step, "accumulate_gradients", measured):
        undisturbed = train(check, "undisturbed", work, *words)
    try:
        with patch.object(step, "accumulate_gradients", tight):
            repeated = train(check, "repeated", work, *words)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    ran_out, left = repeated.log.count("memory ran out"), before[attempts[0] - 1] - before[0]
    difference = largest_difference(repeated.losses, undisturbed.losses)
    check.found.number(step_bytes=needed[0], repeated=ran_out, left=left, difference=difference)
    check.found.expect(ran_out > 0, "memory did not run out")
    check.found.expect(left <= (0 if check.dry else WORKSPACE), f"failed attempts left {left} bytes on the card")
    check.found.expect(difference <= SAME[check.dry], f"the losses of repeated steps differ by {difference:.1e}")


def liger(check: Check) -> None:
    """Train with Liger's kernels and without."""
    if find_spec("liger_kernel") is None:
        check.found.skip("liger-kernel is not installed", everything=True)
        return
    if check.dry:
        check.found.skip("Triton kernels cannot be launched on the simulator", everything=True)
        return
    work = Work(**check.sizes["work"])
    plain, kernels = (
        train(check, choice, work, f"speed.kernels={choice}", *check.sizes["words"]) for choice in ("never", "always")
    )
    difference = largest_difference(kernels.losses, plain.losses)
    ratio = kernels.speed(check.sizes["warm"]) / plain.speed(check.sizes["warm"])
    check.found.number(difference=difference, speed_ratio=ratio, peak_ratio=kernels.peak / plain.peak)
    check.found.expect(difference <= 0.02, f"losses with Liger's kernels differ by {difference:.1e}")


def profile(check: Check) -> None:
    """Count where a step waits for the card, and list the ten kernels that take the most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    from tests.gpu.device import waits

    real, waited, tables = loop.train_step, list[list[str]](), list[Any]()
    activities = [ProfilerActivity.CPU, *([] if check.dry else [ProfilerActivity.CUDA])]

    def watched(context: Any, state: Any, number: int, prefetcher: Any) -> Any:
        if number == check.sizes["profiled"]:
            with record(activities=activities) as profiled:
                metrics = real(context, state, number, prefetcher)
            tables.append(profiled.key_averages())
            return metrics
        with waits() as seen:
            metrics = real(context, state, number, prefetcher)
        waited.append(seen)
        return metrics

    with patch.object(loop, "train_step", watched):
        train(check, "profiled", Work(**check.sizes["work"]), "quant=nf4", *check.sizes["words"])
    check.found.number(waits=[len(seen) for seen in waited])
    most = max(waited, key=len)
    check.found.expect(len(most) == 1, f"a step waited {len(most)} times for the card")
    (check.directory / "waits.txt").write_text("\n\n".join(most), encoding="utf-8")
    key = "self_cpu_time_total" if check.dry else "self_device_time_total"
    write_profile(check, tables[0], key, check.directory / "profile.txt")
    if check.dry:
        check.found.skip("times of kernels: the card is simulated")


def write_profile(check: Check, table: Any, key: str, file: Path) -> None:
    """Write the table of kernels, and record the ten with the most time and their shares."""
    times = {event.key: float(attrgetter(key)(event)) for event in table}
    total = sum(times.values()) or 1.0
    top = sorted(times, key=lambda name: -times[name])[:10]
    check.found.number(kernels={name[:80]: round(times[name] / total, 3) for name in top})
    file.write_text(table.table(sort_by=key, row_limit=40, max_name_column_width=80), encoding="utf-8")
