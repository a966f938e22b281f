"""What the small model shows: packing proven, an optimizer step taken, the layout without effect. A line each."""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PretrainedConfig

from sft_cli.check.results import CheckResult, fail, ok, warn
from sft_cli.check.torch_checks.tiny_model import (
    StepGradient,
    TinyModel,
    as_plain_transformers,
    make_tiny_model,
    optimizer_step,
    pick_examples,
    step_gradient,
)
from sft_cli.config.schema.config import Config
from sft_cli.console import counted
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError

TOLERANCE = 1e-5
"""Largest relative difference of loss and gradient between layouts, in float32."""


def step_checks(config: Config, architecture: PretrainedConfig, prepared: PreparedData) -> Iterator[CheckResult]:
    """Lines about packing, one optimizer step, and, the figures of which are long, layouts.

    Raises:
        SftError: The adapter or the storage does not suit the architecture.
    """
    with TemporaryDirectory(prefix="sft-check-") as folder:
        try:
            small = make_tiny_model(config, architecture, prepared, Path(folder))
        except SftError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            # Families have sizes of their own that must fit together; not to have met them is no mistake of the run.
            yield warn(
                "step",
                f"no small model of {architecture.model_type} could be made: {str(error).splitlines()[0]}",
                "continue: the run checks packing on the real model before its first step",
            )
            return
        yield _packing(small)
        yield from _steps(small, prepared)


def _packing(small: TinyModel) -> CheckResult:
    """What the proof at the start of a run will find."""
    probed = small.probed
    if probed.packed_ok:
        shared = "beginnings can be shared" if probed.shared_ok else f"no beginning is shared: {probed.reason}"
        return ok("packing", f"packed and unpacked logits agree ({probed.difference:.1e}); {shared}")
    return warn(
        "packing",
        f"one example a row: {probed.reason}",
        "nothing, the loss is the same; short examples take longer than they would packed",
    )


def _steps(small: TinyModel, prepared: PreparedData) -> Iterator[CheckResult]:
    """The same step in several layouts, then its update."""
    examples = pick_examples(small.config, prepared)
    lengths = [int(prepared.train.lengths[index]) for index in examples]
    total, longest = sum(lengths), max(lengths)
    first = step_gradient(small, small.loss_model, prepared, examples, total)
    half = max(longest, -(-first.tokens // 2))
    layouts = {"half-size micro-batches": half, "one example a row": 0}
    found = {name: step_gradient(small, small.loss_model, prepared, examples, size) for name, size in layouts.items()}
    found["one example a row, plain transformers"] = step_gradient(
        small, as_plain_transformers(small), prepared, examples, 0
    )
    layouts_line = _layouts(small, first, found, len(examples), total)  # before the update changes the model
    yield _update(small, first)
    yield layouts_line


def _layouts(
    small: TinyModel, first: StepGradient, found: dict[str, StepGradient], examples: int, tokens: int
) -> CheckResult:
    """How far apart loss and gradient of the layouts lie."""
    differences = {name: _relative_differences(first, other) for name, other in found.items()}
    more = [
        f"{name} ({found[name].batches}): loss {loss:.1e}, gradient {slope:.1e}"
        for name, (loss, slope) in differences.items()
    ]
    notes = "".join(f", {note}" for note in small.notes)
    what = f"{counted(examples, 'example')}, {counted(tokens, 'token')}"
    text = f"{what}, in float32{notes}; relative to one micro-batch ({first.batches}):"
    worst = max(max(pair) for pair in differences.values())
    if worst <= TOLERANCE:
        return ok("layout", text, more=more)
    return fail(
        "layout",
        f"the layout changes what is learned by {worst:.1e}, more than {TOLERANCE:g}: {text}",
        "speed.packing=false speed.fused=false speed.share_prefixes=never, and tell us the model and these lines",
        more,
    )


def _relative_differences(one: StepGradient, other: StepGradient) -> tuple[float, float]:
    """Relative differences of the losses, and of the gradients as vectors."""
    loss = abs(one.loss - other.loss) / abs(one.loss)
    slope = ((one.values - other.values).norm() / one.values.norm()).item()
    return loss, slope


def _update(small: TinyModel, first: StepGradient) -> CheckResult:
    """One step of the run's own optimizer on the gradient of the last layout."""
    config = small.config
    moved = optimizer_step(small)
    what = f"{config.adapter.kind.value}, quant {config.quant.kind.value}, {config.trainer.optimizer.value}"
    if not isfinite(first.loss) or not isfinite(moved) or not moved:
        return fail(
            "step",
            f"a step of a small {config.run_name} model ({what}) gave loss {first.loss} and moved weights by {moved}",
            "a smaller trainer.lr, or trainer.optimizer=adamw; look at the rows with sft inspect",
        )
    return ok("step", f"loss {first.loss:.4f}, weights moved by at most {moved:.1e}: {what}, on a small random model")
