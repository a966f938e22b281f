"""What the members of a sweep are ranked by: a number of their metrics.jsonl."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.config.automatic import may_hold_out
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import ProbeMetric
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.similar import closest_name

LARGER_IS_BETTER = ("tokens_per_second",)
OF_STEPS = ("grad_norm", "seconds", "tokens_per_second", "memory")
"""What is recorded of every step beside the loss and its terms."""


HELD_OUT, PROBES, STEPS = "held-out", "probes", "training"
"""Lines of metrics.jsonl: of evaluations, of retention probes, of optimizer steps."""


@dataclass(frozen=True, slots=True)
class SweepMetric:
    """What is read.

    Attributes:
        name: As it was typed.
        mode: Which end is the better one: ``min`` or ``max``.
        kind: In which lines it stands. Of evaluations the best one counts, of all others the last.
    """

    name: str
    mode: str
    kind: str

    @property
    def title(self) -> str:
        """``held-out loss``, ``training loss``."""
        return self.name if self.kind == PROBES else f"{self.kind} {self.name}"

    def caption(self) -> str:
        """``best held-out loss, smaller is better``."""
        which = {HELD_OUT: "best held-out", PROBES: "last measured", STEPS: "last training"}[self.kind]
        return f"{which} {self.name}, {'smaller' if self.mode == 'min' else 'larger'} is better"


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A value, and behind which optimizer step it was measured."""

    value: float
    step: int


def parse_metric(name: str | None, mode: str | None, configs: Sequence[Config]) -> SweepMetric:
    """The metric that was asked for, ``loss`` by default.

    Raises:
        SftError: No member would record it, or the mode is none.
    """
    name = name or "loss"
    known = list(dict.fromkeys(found for config in configs for found in _names(config)))
    if name not in known:
        meant = closest_name(name, known)
        raise SftError(
            where=f"--metric {name}",
            problem="no member of the sweep records it",
            fix=(f"did you mean --metric {meant}? " if meant else "") + f"there are: {', '.join(known)}",
        )
    probes = [probe for config in configs for probe in config.trainer.retention.probes.items()]
    shares = [f"retention.{probe}" for probe, settings in probes if settings.metric is ProbeMetric.exact_match]
    evaluated = name.startswith(("sources.", "perplexity")) or (name == "loss" and all(map(may_hold_out, configs)))
    kind = HELD_OUT if evaluated else PROBES if name.startswith("retention.") else STEPS
    return SweepMetric(name, mode or ("max" if name in (*LARGER_IS_BETTER, *shares) else "min"), kind)


def _names(config: Config) -> Iterator[str]:
    """What a run with these settings records."""
    loss = config.loss
    yield "loss"
    if may_hold_out(config):
        yield from ("perplexity", *(f"sources.{name}" for name in config.data.mix))
    yield "dft" if loss.dft else "nll"
    terms = {"smoothing": loss.label_smoothing, "z": loss.z_loss, "kl": loss.kl, "replay": loss.replay}
    yield from (name for name, factor in terms.items() if factor)
    if loss.router != 0:
        yield "router"
    yield from OF_STEPS
    yield from (f"retention.{name}" for name in config.trainer.retention.probes)


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; one that is being written, or was torn, ends them."""
    found = []
    if run.metrics.is_file():
        for line in run.metrics.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found


def metric_value(metric: SweepMetric, recorded: Sequence[Mapping[str, Any]]) -> MetricValue | None:
    """A run's value: the best one of evaluations, else the last one; None before there is any."""
    readings = metric_curve(metric, recorded)
    if metric.kind != HELD_OUT:
        return readings[-1] if readings else None
    signed = 1 if metric.mode == "min" else -1
    return min(readings, key=lambda reading: signed * reading.value, default=None)


def metric_curve(metric: SweepMetric, recorded: Sequence[Mapping[str, Any]]) -> list[MetricValue]:
    """Every value of a run, in the order of the steps; null, which stands for what is no number, is passed over."""
    found = [line for line in recorded if _kind(line) == metric.kind]
    values = [(_value(metric.name, line), line["step"]) for line in found]
    return [MetricValue(float(value), step) for value, step in values if isinstance(value, int | float)]


def _kind(line: Mapping[str, Any]) -> str:
    """What a line is about."""
    return HELD_OUT if "eval" in line else PROBES if "retention" in line else STEPS


def _value(name: str, line: Mapping[str, Any]) -> Any:
    """What a line has under the name; None where it has nothing."""
    group, _, rest = name.partition(".")
    if group == "sources":
        return line["sources"].get(rest)
    if group == "retention":
        return line["retention"].get(rest, {}).get("value")
    return line.get("terms", {}).get(name, line.get(name))
