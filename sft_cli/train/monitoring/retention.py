"""A guard against forgetting: probes measured on the base and during training."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import ProbeMetric, Reduction
from sft_cli.console import progress, say, table
from sft_cli.distributed.process_group import here
from sft_cli.eval.evaluate import share
from sft_cli.eval.exact_match import decoder, items, matches
from sft_cli.eval.generate import answers
from sft_cli.eval.heldout import heldout_loss
from sft_cli.model.head.loss_model import LossModel
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.metrics import keep_until
from sft_cli.train.monitoring.retention_probes import Probe
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

EXIT_CODE = 3
"""Of a run that the guard stopped: neither success, so that what a scheduler runs behind it does not begin, nor a crash
or a signal, so that nothing is requeued."""


Record = Callable[[int, Mapping[str, Any]], None]
"""Told a step and what was measured behind it, by probe; see ``Log.retention``."""


class Forgotten(Exception):
    """A probe got worse than it may; the run stopped behind a saved step. Its text says which."""


@dataclass(frozen=True, slots=True)
class Change:
    """A probe now and before training.

    Attributes:
        probe: Which.
        base: Its value on the untrained model.
        value: Its value now.
    """

    probe: Probe
    base: float
    value: float

    @property
    def worse(self) -> float:
        """By how much it got worse: relative for loss, absolute for exact_match; negative where it got better."""
        if self.probe.config.metric is ProbeMetric.exact_match:
            return self.base - self.value
        return (self.value - self.base) / self.base if self.base > 0 else math.inf * (self.value > 0)

    @property
    def allowed(self) -> bool:
        """Whether it is within ``max_drop``; a value that is no number is not."""
        return self.worse <= self.probe.config.max_drop

    def values(self) -> dict[str, Any]:
        """For metrics.jsonl; null for what is no number."""
        numbers = {"value": self.value, "base": self.base, "worse": self.worse}
        return {
            "metric": self.probe.config.metric.value,
            **nan_to_none(numbers),
            "max_drop": self.probe.config.max_drop,
        }

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        shares = self.probe.config.metric is ProbeMetric.exact_match
        cells = [f"{n:.1%}" if shares else f"{n:.4f}" for n in (self.base, self.value)]
        verdict = "" if self.allowed else "too much"
        limit = f"{self.probe.config.max_drop:.1%}"
        return (self.probe.name, self.probe.config.metric.value, *cells, f"{self.worse:+.1%}", limit, verdict)


class Retention:
    """Measures a run's probes, in the precision of training.

    Attributes:
        verdict: What the last ``check`` found wrong, as a sentence; empty while nothing is.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDir,
        loss_model: LossModel,
        accelerator: Accelerator,
        tokenizer: ChatTokenizer,
        stop_ids: Sequence[int],
        probes: Sequence[Probe],
    ) -> None:
        self._config, self._directory, self._model = config, directory, loss_model
        self._accelerator, self._decode, self._stop_ids = accelerator, decoder(tokenizer), stop_ids
        self._probes = probes
        self._base: dict[str, float] = {}
        self.verdict = ""

    def begin(self) -> None:
        """Measure the base, or read what an earlier session of the run measured.

        Call it on the untrained model, before a checkpoint is restored: a probe that was added or changed since is
        then measured on the base, too.
        """
        file = self._directory.retention
        ranks = here()
        known = ranks.by_first(lambda: self._directory.read(file) if file.is_file() else {})
        kept = {}
        for probe in self._probes:
            identity = self._identity(probe)
            old = known.get(probe.name, {})
            if {name: old.get(name) for name in identity} != identity:
                old = {**identity, "value": self._measure(probe)}
                say(f"retention {probe.name}: {probe.config.metric.value} {old['value']:.4f} before training")
                if probe.config.metric is ProbeMetric.exact_match and old["value"] <= probe.config.max_drop:
                    say(f"          {probe.name} cannot fall by more than its max_drop: it guards nothing")
            kept[probe.name] = old
        ranks.by_first(lambda: write_atomic(file, json.dumps(kept, indent=1) + "\n"))
        self._base = {name: entry["value"] for name, entry in kept.items()}

    def check(self, step: int, record: Record) -> bool:
        """Measure, record and print it; False: stop, for the reason in ``verdict``."""
        changes = [Change(probe, self._base[probe.name], self._measure(probe)) for probe in self._probes]
        record(step, {change.probe.name: change.values() for change in changes})
        say(f"retention after step {step}")
        columns = ("probe", "metric", "base", "now", "worse by", "allowed", "")
        table(columns, [change.row() for change in changes])
        return self._accept(changes)

    def resume(self, step: int) -> None:
        """Judge a run saved behind ``step`` by what was measured there, with the limits of now.

        Raises:
            Forgotten: The guard stopped it, and neither ``stop`` nor a ``max_drop`` has changed since.
        """
        here().by_first(lambda: keep_until(self._directory.metrics, step))
        if not self._directory.metrics.is_file():
            return
        lines = [json.loads(line) for line in self._directory.metrics.read_text(encoding="utf-8").splitlines()]
        found = {}
        for line in lines:
            if line["step"] == step:
                found = line.get("retention", found)
        known = [probe for probe in self._probes if probe.name in found]
        if not self._accept([Change(probe, self._base[probe.name], _number(found[probe.name])) for probe in known]):
            raise Forgotten(self.verdict)

    def _accept(self, changes: Sequence[Change]) -> bool:
        """Set the verdict; whether training may go on."""
        self.verdict = "; ".join(
            f"probe {change.probe.name} is {change.worse:.1%} worse than the base,"
            f" {change.probe.config.max_drop:.1%} is allowed"
            for change in changes
            if not change.allowed
        )
        return not (self.verdict and self._config.trainer.retention.stop)

    def _identity(self, probe: Probe) -> dict[str, Any]:
        """What a stored value must agree with."""
        generated = probe.config.metric is ProbeMetric.exact_match
        return {
            "metric": probe.config.metric.value,
            "content": probe.content,
            "examples": probe.used,
            "max_new_tokens": self._config.eval.max_new_tokens if generated else None,
        }

    def _measure(self, probe: Probe) -> float:
        """The probe's value on the model as it is."""
        with self._accelerator.autocast(), progress(f"probe {probe.name}", unit="examples") as shown:
            if probe.config.metric is ProbeMetric.loss:
                return heldout_loss(
                    self._model,
                    probe.split,
                    reduction=Reduction.token,
                    budget=self._config.speed.tokens_per_micro_batch,
                    packed=self._model.packed,
                    share=self._model.shares_prefixes,
                    device=self._accelerator.device,
                    indices=range(probe.used),
                    progress=shown.update,
                ).overall.loss
            asked = items(probe.split, self._decode, self._stop_ids, range(probe.used))
            said = answers(
                self._model.model,
                [item.prompt_ids for item in asked],
                stop_ids=self._stop_ids,
                pad_id=self._stop_ids[0],
                max_new_tokens=self._config.eval.max_new_tokens,
                batch_size=self._config.eval.batch_size,
                progress=shown.update,
            )
        right = [matches(self._decode(answer.ids), item.expected) for item, answer in zip(asked, said, strict=True)]
        found = share(right)
        assert found is not None, "a probe of answers has prompts"
        return found


def _number(measured: Mapping[str, Any]) -> float:
    """The value in a line of metrics.jsonl, where null stands for what is no number."""
    return math.nan if measured["value"] is None else measured["value"]


def stopped(run: str, step: int, verdict: str) -> str:
    """What a person is told when the guard stopped a run; ``run`` as it can be pasted into a shell."""
    return (
        f"stopped   after step {step}, saved, without a result: {verdict}\n"
        f"next      sft train --resume {run} trainer.retention.stop=false to continue anyway,"
        " or a new run with a smaller trainer.lr or a replay source"
    )
