"""Evaluation of the held-out rows: loss and sample answers during training, base and trained model afterwards."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.adapter import MERGEABLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.console import say, table
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import current_world
from sft_cli.errors import SftError
from sft_cli.eval.evaluate import SAMPLE_INDENT, evaluate_split, sample_lines
from sft_cli.eval.evaluate import Evaluation as Answers
from sft_cli.eval.exact_match import extract_questions, make_decoder
from sft_cli.eval.failure import failure_warning
from sft_cli.eval.generate import generate_answers
from sft_cli.eval.heldout import heldout_loss
from sft_cli.model.adapter.warm_start import initial_adapters
from sft_cli.model.head.kl_reference import KLReference, make_kl_reference
from sft_cli.model.head.loss_model import LossModel
from sft_cli.progress import progress
from sft_cli.run_dir import RunDir
from sft_cli.train.context import EvaluationResult, TrainContext
from sft_cli.train.monitoring.suite_evaluator import SuiteEvaluator
from sft_cli.utils.atomic import write_atomic

NUM_SAMPLES = 3
"""Sample answers printed at the end."""


class HeldOutEvaluator:
    """Evaluates the model on one split, in the precision of training."""

    def __init__(
        self,
        config: Config,
        split: Split,
        loss_model: LossModel,
        accelerator: Accelerator,
        tokenizer: ChatTokenizer,
        stop_ids: Sequence[int],
        suites: SuiteEvaluator,
    ) -> None:
        self._suites, self._config, self._split, self._model = suites, config, split, loss_model
        self._accelerator, self._decode, self.stop_ids = accelerator, make_decoder(tokenizer), stop_ids
        self._expected, self._answers = list[str](), list[str]()

    def evaluate(self, step: int) -> EvaluationResult:
        """Compute the held-out loss, the answers to the first held-out prompts, and the figures of the suites."""
        values, samples = self._evaluate_rows() if len(self._split) else ({}, [])
        if self._suites.has_suites:
            with self._accelerator.autocast():
                values["suites"] = self._suites.evaluate(step)
        score, best = None, self._suites.best
        if best is not None:
            score = values["best"] = best.score(values)
        return EvaluationResult(values.get("loss"), score, values, samples)

    def _evaluate_rows(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the losses of the held-out rows, and sample answers."""
        with self._accelerator.autocast():
            result = heldout_loss(
                self._model,
                self._split,
                reduction=self._config.loss.reduction,
                max_tokens=resolved(self._config.speed.tokens_per_micro_batch),
                packed=self._model.packed,
                share_prefixes=self._model.shares_prefixes,
                device=self._accelerator.device,
            )
            samples = self._sample_answers()
        values = {
            "loss": result.overall.loss,
            "perplexity": result.overall.perplexity,
            "trained_tokens": result.overall.trained_tokens,
            "sources": {name: metrics.loss for name, metrics in result.sources.items()},
        }
        return values, samples

    def failure_warning(self) -> str | None:
        """Return a warning if the last answers of the trained model show that it has not learned; None otherwise."""
        return failure_warning(self._expected, self._answers, self._config)

    def evaluate_base(self, directory: RunDir) -> dict[str, Any]:
        """Return scores and answers of the base model, cached in the run directory for a resumed run."""
        world = current_world()
        cached = world.run_on_main(
            lambda: directory.read_json(directory.base_scores) if directory.base_scores.is_file() else None
        )
        if cached is not None:
            return cached
        say("baseline  evaluating the base model on the held-out rows")
        result = self._scores_json(self._evaluate_fully("base"))
        world.run_on_main(lambda: write_atomic(directory.base_scores, json.dumps(result, ensure_ascii=False) + "\n"))
        return result

    def score_base_before_training(self, directory: RunDir, *, resumed: bool) -> dict[str, Any] | None:
        """Return scores and answers of the model that training begins with; None if no comparison is requested.

        Raises:
            SftError: A resumed run requests the comparison, but its start was not scored.
        """
        if not self._config.eval.compare_after_training:
            return None
        if resumed and not directory.base_scores.is_file():
            raise SftError(
                where="eval.compare_after_training",
                problem="the run began without it, and the base model can no longer be evaluated in this run",
                fix=f"remove it, then compare with: sft eval {shlex.quote(str(directory.path))} --compare base",
            )
        return self.evaluate_base(directory)

    def compare_with_base(self, directory: RunDir, base: KLReference | None, before: dict[str, Any] | None) -> None:
        """Print the scores of the base and the trained model, if a comparison is requested.

        Args:
            directory: The run directory.
            base: The base model, if it is scored now; see ``make_base_reference``.
            before: Its scores from before training, if it was scored then; see ``score_base_before_training``.
        """
        if base is not None:
            with base.activate():
                before = self.evaluate_base(directory)
        if before is not None:
            self.print_comparison(before, directory)

    def print_comparison(self, before: dict[str, Any], directory: RunDir) -> None:
        """Evaluate the tuned model, save its scores, and print them with the base model's and with sample answers."""
        result = self._evaluate_fully("tuned")
        after = self._scores_json(result)
        self._expected, self._answers = result.expected, result.texts
        current_world().run_on_main(
            lambda: write_atomic(directory.tuned_scores, json.dumps(after, ensure_ascii=False) + "\n")
        )
        names = {"exact_match": "exact match", "loss": "held-out loss", "stopped_share": "answers that stop"}
        rows = [
            (title, _format_score(name, before[name]), _format_score(name, after[name]))
            for name, title in names.items()
        ]
        table(("held-out rows", "before", "after"), rows)
        for line in sample_lines(result.items, {"before": before["answers"], "after": after["answers"]}, NUM_SAMPLES):
            say(line, indent=SAMPLE_INDENT)

    def _evaluate_fully(self, label: str) -> Answers:
        """Compute losses and generate all answers."""
        with (
            self._accelerator.autocast(),
            progress(f"{label} loss", unit="examples") as loss_progress,
            progress(f"{label} answers", unit="prompts") as answer_progress,
        ):
            return evaluate_split(
                self._model,
                self._split,
                self._config.eval,
                reduction=self._config.loss.reduction,
                max_tokens=resolved(self._config.speed.tokens_per_micro_batch),
                decode=self._decode,
                stop_ids=self.stop_ids,
                loss_progress=loss_progress.update,
                answer_progress=answer_progress.update,
            )

    def _sample_answers(self) -> list[dict[str, Any]]:
        """Generate answers to the first ``eval.samples`` held-out prompts."""
        if not self._config.eval.samples:
            return []
        questions = extract_questions(self._split, self._decode, self.stop_ids, limit=self._config.eval.samples)
        generated = generate_answers(
            self._model.model,
            [item.prompt_ids for item in questions],
            stop_ids=self.stop_ids,
            pad_id=self.stop_ids[0],
            max_new_tokens=self._config.eval.max_new_tokens,
            batch_size=self._config.eval.batch_size,
        )
        self._expected = [item.expected for item in questions]
        self._answers = [self._decode(answer.ids) for answer in generated]
        return [
            {
                "where": item.where,
                "prompt": item.prompt,
                "expected": item.expected,
                "answer": text,
                "stopped": answer.stopped,
            }
            for item, answer, text in zip(questions, generated, self._answers, strict=True)
        ]

    @staticmethod
    def _scores_json(result: Answers) -> dict[str, Any]:
        """Return the scores over all sources and the answers, as JSON values."""
        scores = result.metrics.overall
        return {
            "exact_match": scores.exact_match,
            "loss": scores.loss,
            "stopped_share": scores.stopped_share,
            "answers": [answer.text for answer in result.answers],
        }


def make_base_reference(config: Config, context: TrainContext) -> KLReference | None:
    """Return a reference for scoring the base model after training, so that training starts sooner.

    None if no comparison is requested, or if the base must be scored before training: a run that begins with an adapter
    is compared with that adapter, and a run that trains the base's own weights overwrites the base.
    """
    available = config.adapter.kind in MERGEABLE and not initial_adapters(config.adapter)
    return make_kl_reference(context.model.model) if config.eval.compare_after_training and available else None


def _format_score(name: str, value: float | None) -> str:
    """Format a score: fractions in percent, losses in nats."""
    if value is None:
        return ""
    return f"{value:.4f}" if name == "loss" else f"{value:.1%}"
