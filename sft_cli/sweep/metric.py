"""The metric that ranks the members of a sweep, read from their metrics.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.config.automatic import may_hold_out
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import ProbeMetric
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

LARGER_IS_BETTER = ("tokens_per_second",)
OF_STEPS = ("grad_norm", "seconds", "tokens_per_second", "memory")
"""Values recorded for every step in addition to the loss and its terms."""


HELD_OUT, PROBES, STEPS = "held-out", "probes", "training"
"""Kinds of lines in metrics.jsonl: evaluations, retention probes, optimizer steps."""


@dataclass(frozen=True, slots=True)
class SweepMetric:
    """A metric of a run.

    Attributes:
        name: Name as typed.
        mode: Better direction: ``min`` or ``max``.
        kind: Kind of lines that contain it. The best evaluation counts; of other lines, the last.
    """

    name: str
    mode: str
    kind: str

    @property
    def title(self) -> str:
        """Name with its kind: ``held-out loss``, ``training loss``."""
        return self.name if self.kind == PROBES else f"{self.kind} {self.name}"

    def caption(self) -> str:
        """Return a caption: ``best held-out loss, smaller is better``."""
        which = {HELD_OUT: "best held-out", PROBES: "last measured", STEPS: "last training"}[self.kind]
        return f"{which} {self.name}, {'smaller' if self.mode == 'min' else 'larger'} is better"


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A value, and the optimizer step after which it was measured."""

    value: float
    step: int


def parse_metric(name: str | None, mode: str | None, configs: Sequence[Config]) -> SweepMetric:
    """Return the requested metric, ``loss`` by default.

    Raises:
        SftError: No member would record it, or the mode is unknown.
    """
    name = name or "loss"
    known = list(dict.fromkeys(recorded for config in configs for recorded in _names(config)))
    if name not in known:
        meant = closest_name(name, known)
        raise SftError(
            where=f"--metric {name}",
            problem="no member of the sweep records it",
            fix=(f"did you mean --metric {meant}? " if meant else "") + f"metrics: {', '.join(known)}",
        )
    probes = [probe for config in configs for probe in config.trainer.retention.probes.items()]
    shares = [f"retention.{probe}" for probe, settings in probes if settings.metric is ProbeMetric.exact_match]
    evaluated = name.startswith(("sources.", "perplexity")) or (name == "loss" and all(map(may_hold_out, configs)))
    kind = HELD_OUT if evaluated else PROBES if name.startswith("retention.") else STEPS
    return SweepMetric(name, mode or ("max" if name in (*LARGER_IS_BETTER, *shares) else "min"), kind)


def _names(config: Config) -> Iterator[str]:
    """Yield the names of the metrics that a run with these settings records."""
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


def metric_value(metric: SweepMetric, recorded: Sequence[Mapping[str, Any]]) -> MetricValue | None:
    """Return a run's best evaluation, or last value of another kind; None before there is any."""
    readings = metric_curve(metric, recorded)
    if metric.kind != HELD_OUT:
        return readings[-1] if readings else None
    signed = 1 if metric.mode == "min" else -1
    return min(readings, key=lambda reading: signed * reading.value, default=None)


def metric_curve(metric: SweepMetric, recorded: Sequence[Mapping[str, Any]]) -> list[MetricValue]:
    """Return every value of a run in the order of the steps, without null values, which are not finite."""
    matching = [line for line in recorded if _kind(line) == metric.kind]
    values = [(_value(metric.name, line), line["step"]) for line in matching]
    return [MetricValue(float(value), step) for value, step in values if isinstance(value, int | float)]


def _kind(line: Mapping[str, Any]) -> str:
    """Return the kind of a line."""
    return HELD_OUT if "eval" in line else PROBES if "retention" in line else STEPS


def _value(name: str, line: Mapping[str, Any]) -> Any:
    """Return the value of a metric in a line; None without one."""
    group, _, item = name.partition(".")
    if group == "sources":
        return line["sources"].get(item)
    if group == "retention":
        return line["retention"].get(item, {}).get("value")
    return line.get("terms", {}).get(name, line.get(name))
