"""Checks with the small model: packing, one optimizer step, and the effect of the layout."""

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
    """Yield the checks of packing, of one optimizer step, and of layouts with their figures.

    Raises:
        SftError: The adapter or the storage does not suit the architecture.
    """
    with TemporaryDirectory(prefix="sft-check-") as folder:
        try:
            small = make_tiny_model(config, architecture, prepared, Path(folder))
        except SftError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            # Some families constrain their sizes; a small model that violates them is not an error of the run.
            yield warn(
                "step",
                f"no small model of {architecture.model_type} could be created: {str(error).splitlines()[0]}",
                "continue: the run checks packing on the real model before its first step",
            )
            return
        yield _packing(small)
        yield from _steps(small, prepared)


def _packing(small: TinyModel) -> CheckResult:
    """Return the check that packing is exact, as the run itself makes it."""
    probed = small.probed
    if probed.packed_ok:
        shared = "prefixes can be shared" if probed.shared_ok else f"prefixes are not shared: {probed.reason}"
        return ok("packing", f"packed and unpacked logits agree ({probed.difference:.1e}); {shared}")
    return warn(
        "packing",
        f"one example a row: {probed.reason}",
        "nothing, the loss is the same; short examples take longer than with packing",
    )


def _steps(small: TinyModel, prepared: PreparedData) -> Iterator[CheckResult]:
    """Yield the checks of the update and of the same step in several layouts."""
    examples = pick_examples(small.config, prepared)
    lengths = [int(prepared.train.lengths[index]) for index in examples]
    total, longest = sum(lengths), max(lengths)
    first = step_gradient(small, small.loss_model, prepared, examples, total)
    half = max(longest, -(-first.tokens // 2))
    layouts = {"half-size micro-batches": half, "one example a row": 0}
    others = {name: step_gradient(small, small.loss_model, prepared, examples, size) for name, size in layouts.items()}
    others["one example a row, plain transformers"] = step_gradient(
        small, as_plain_transformers(small), prepared, examples, 0
    )
    layouts_line = _layouts(small, first, others, len(examples), total)  # before the update changes the model
    yield _update(small, first)
    yield layouts_line


def _layouts(
    small: TinyModel, first: StepGradient, others: dict[str, StepGradient], examples: int, tokens: int
) -> CheckResult:
    """Return the check of the differences in loss and gradient between layouts."""
    differences = {name: _relative_differences(first, other) for name, other in others.items()}
    more = [
        f"{name} ({others[name].batches}): loss {loss:.1e}, gradient {slope:.1e}"
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
        f"the layout changes loss or gradient by {worst:.1e}, more than {TOLERANCE:g}: {text}",
        "speed.packing=false speed.fused=false speed.share_prefixes=never, and report the model and these lines",
        more,
    )


def _relative_differences(reference: StepGradient, other: StepGradient) -> tuple[float, float]:
    """Return the relative differences of the losses, and of the gradients as vectors."""
    loss = abs(reference.loss - other.loss) / abs(reference.loss)
    slope = ((reference.values - other.values).norm() / reference.values.norm()).item()
    return loss, slope


def _update(small: TinyModel, first: StepGradient) -> CheckResult:
    """Take a step of the run's optimizer with the gradient of the last layout, and return the check of it."""
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
