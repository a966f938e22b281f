"""The guard against forgetting: probes that are measured on the base model and during training."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import ProbeMetric, Reduction
from sft_cli.console import say, table
from sft_cli.distributed.process_group import current_world
from sft_cli.eval.evaluate import fraction_true
from sft_cli.eval.exact_match import extract_questions, make_decoder
from sft_cli.eval.generate import generate_answers
from sft_cli.eval.heldout import heldout_loss
from sft_cli.model.head.loss_model import LossModel
from sft_cli.progress import progress
from sft_cli.run_dir import RunDir
from sft_cli.scoring.normalize import is_exact_match
from sft_cli.train.monitoring.metrics import truncate_after
from sft_cli.train.monitoring.retention_probes import RetentionProbe
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

EXIT_CODE = 3
"""Exit code of a run that the guard stopped: not 0, so that a scheduler starts no dependent jobs, and neither that of a
crash nor of a signal, so that the job is not requeued."""


RecordFn = Callable[[int, Mapping[str, Any]], None]
"""Records the values of the probes after a step, by probe name; see ``MetricsLog.retention``."""


class RetentionFailed(Exception):
    """A probe fell below its limit, and the run stopped after a saved step. The message names the probe."""


@dataclass(frozen=True, slots=True)
class ProbeChange:
    """The values of a probe before and during training.

    Attributes:
        probe: The probe.
        base: Its value on the base model.
        value: Its current value.
    """

    probe: RetentionProbe
    base: float
    value: float

    @property
    def drop(self) -> float:
        """How much worse the value is: relative for loss, absolute for exact_match; negative if it improved."""
        if self.probe.config.metric is ProbeMetric.exact_match:
            return self.base - self.value
        return (self.value - self.base) / self.base if self.base > 0 else math.inf * (self.value > 0)

    @property
    def is_allowed(self) -> bool:
        """Whether the drop is at most ``max_drop``; NaN is not."""
        return self.drop <= self.probe.config.max_drop

    def to_json(self) -> dict[str, Any]:
        """Return the values for metrics.jsonl; null where a number is not finite."""
        numbers = {"value": self.value, "base": self.base, "worse": self.drop}
        return {
            "metric": self.probe.config.metric.value,
            **nan_to_none(numbers),
            "max_drop": self.probe.config.max_drop,
        }

    def table_row(self) -> tuple[str, ...]:
        """Return the row of the printed table."""
        is_fraction = self.probe.config.metric is ProbeMetric.exact_match
        cells = [f"{n:.1%}" if is_fraction else f"{n:.4f}" for n in (self.base, self.value)]
        verdict = "" if self.is_allowed else "too much"
        limit = f"{self.probe.config.max_drop:.1%}"
        return (self.probe.name, self.probe.config.metric.value, *cells, f"{self.drop:+.1%}", limit, verdict)


class RetentionGuard:
    """Measures a run's probes in the precision of training and stops the run when a probe falls below its limit.

    Attributes:
        failure: The probes below their limits in the last ``check``, as a sentence; empty if there are none.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDir,
        loss_model: LossModel,
        accelerator: Accelerator,
        tokenizer: ChatTokenizer,
        stop_ids: Sequence[int],
        probes: Sequence[RetentionProbe],
    ) -> None:
        self._config, self._directory, self._model = config, directory, loss_model
        self._accelerator, self._decode, self._stop_ids = accelerator, make_decoder(tokenizer), stop_ids
        self._probes = probes
        self._base: dict[str, float] = {}
        self.failure = ""

    def measure_base(self) -> None:
        """Measure the base model, or read the values that an earlier session of the run measured.

        Call it before a checkpoint is restored, so that a probe that was added or changed in the meantime is also
        measured on the base model.
        """
        file = self._directory.retention
        world = current_world()
        cached = world.run_on_main(lambda: self._directory.read_json(file) if file.is_file() else {})
        measured = {}
        for probe in self._probes:
            identity = self._measurement_key(probe)
            result = cached.get(probe.name, {})
            if {name: result.get(name) for name in identity} != identity:
                result = {**identity, "value": self._measure(probe)}
                say(f"retention {probe.name}: {probe.config.metric.value} {result['value']:.4f} before training")
                if probe.config.metric is ProbeMetric.exact_match and result["value"] <= probe.config.max_drop:
                    say(f"warning: probe {probe.name} cannot fall by more than its max_drop, so it has no effect")
            measured[probe.name] = result
        world.run_on_main(lambda: write_atomic(file, json.dumps(measured, indent=1) + "\n"))
        self._base = {name: entry["value"] for name, entry in measured.items()}

    def check(self, step: int, record: RecordFn) -> bool:
        """Measure, record and print the probes.

        Returns:
            Whether training may continue; otherwise ``failure`` has the reason.
        """
        changes = [ProbeChange(probe, self._base[probe.name], self._measure(probe)) for probe in self._probes]
        record(step, {change.probe.name: change.to_json() for change in changes})
        say(f"retention after step {step}")
        columns = ("probe", "metric", "base", "now", "worse by", "allowed", "")
        table(columns, [change.table_row() for change in changes])
        return self._judge(changes)

    def check_saved_step(self, step: int) -> None:
        """Check the values that were recorded at a saved step against the current limits.

        Raises:
            RetentionFailed: A probe is below its limit, and ``trainer.retention.stop`` is set.
        """
        current_world().run_on_main(lambda: truncate_after(self._directory.metrics, step))
        if not self._directory.metrics.is_file():
            return
        lines = [json.loads(line) for line in self._directory.metrics.read_text(encoding="utf-8").splitlines()]
        values = {}
        for line in lines:
            if line["step"] == step:
                values = line.get("retention", values)
        probes = [probe for probe in self._probes if probe.name in values]
        if not self._judge(
            [ProbeChange(probe, self._base[probe.name], _number(values[probe.name])) for probe in probes]
        ):
            raise RetentionFailed(self.failure)

    def _judge(self, changes: Sequence[ProbeChange]) -> bool:
        """Set ``failure`` and return whether training may continue."""
        self.failure = "; ".join(
            f"probe {change.probe.name} is {change.drop:.1%} worse than the base,"
            f" {change.probe.config.max_drop:.1%} is allowed"
            for change in changes
            if not change.is_allowed
        )
        return not (self.failure and self._config.trainer.retention.stop)

    def _measurement_key(self, probe: RetentionProbe) -> dict[str, Any]:
        """Return the settings for which a stored value of the base model is valid."""
        generates = probe.config.metric is ProbeMetric.exact_match
        return {
            "metric": probe.config.metric.value,
            "content": probe.content,
            "examples": probe.num_examples,
            "max_new_tokens": self._config.eval.max_new_tokens if generates else None,
        }

    def _measure(self, probe: RetentionProbe) -> float:
        """Return the probe's value on the current model."""
        with self._accelerator.autocast(), progress(f"probe {probe.name}", unit="examples") as bar:
            if probe.config.metric is ProbeMetric.loss:
                return heldout_loss(
                    self._model,
                    probe.split,
                    reduction=Reduction.token,
                    max_tokens=resolved(self._config.speed.tokens_per_micro_batch),
                    packed=self._model.packed,
                    share_prefixes=self._model.shares_prefixes,
                    device=self._accelerator.device,
                    indices=range(probe.num_examples),
                    progress=bar.update,
                ).overall.loss
            questions = extract_questions(probe.split, self._decode, self._stop_ids, range(probe.num_examples))
            generated = generate_answers(
                self._model.model,
                [item.prompt_ids for item in questions],
                stop_ids=self._stop_ids,
                pad_id=self._stop_ids[0],
                max_new_tokens=self._config.eval.max_new_tokens,
                batch_size=self._config.eval.batch_size,
                progress=bar.update,
            )
        correct = [
            is_exact_match(self._decode(answer.ids), item.expected)
            for item, answer in zip(questions, generated, strict=True)
        ]
        fraction = fraction_true(correct)
        assert fraction is not None, "a probe of answers has prompts"
        return fraction


def _number(measured: Mapping[str, Any]) -> float:
    """Return the value in a line of metrics.jsonl; NaN for null."""
    return math.nan if measured["value"] is None else measured["value"]


def stop_message(run: str, step: int, reason: str) -> str:
    """Return the message of a run that the guard stopped; ``run`` is quoted for a shell."""
    return (
        f"stopped   after step {step}, saved, without a result: {reason}\n"
        f"next      sft train --resume {run} trainer.retention.stop=false to continue anyway,"
        " or a new run with a smaller trainer.lr or a replay source"
    )
