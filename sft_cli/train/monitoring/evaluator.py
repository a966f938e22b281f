"""The held-out rows during a run: loss and sample answers while training, base and tuned side by side at its end."""

import json
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import Config
from sft_cli.console import progress, say, table
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import here
from sft_cli.eval.evaluate import SAMPLE_INDENT, evaluate, sample_lines
from sft_cli.eval.evaluate import Evaluation as Answers
from sft_cli.eval.exact_match import decoder, items
from sft_cli.eval.generate import answers
from sft_cli.eval.heldout import heldout_loss
from sft_cli.model.head.loss_model import LossModel
from sft_cli.run_dir import RunDir
from sft_cli.train.context import Evaluation
from sft_cli.utils.atomic import write_atomic

SHOWN = 3
"""Sample answers at the end."""


class Watch:
    """Evaluates one model on one split, in the precision of training."""

    def __init__(
        self,
        config: Config,
        split: Split,
        loss_model: LossModel,
        accelerator: Accelerator,
        tokenizer: ChatTokenizer,
        stop_ids: Sequence[int],
    ) -> None:
        self._config, self._split, self._model = config, split, loss_model
        self._accelerator, self._decode, self.stop_ids = accelerator, decoder(tokenizer), stop_ids

    def evaluate(self) -> Evaluation:
        """Held-out loss, and the answers to the first few held-out prompts."""
        with self._accelerator.autocast():
            found = heldout_loss(
                self._model,
                self._split,
                reduction=self._config.loss.reduction,
                budget=self._config.speed.tokens_per_micro_batch,
                packed=self._model.packed,
                share=self._model.shares_prefixes,
                device=self._accelerator.device,
            )
            samples = self._samples()
        values = {
            "loss": found.overall.loss,
            "perplexity": found.overall.perplexity,
            "trained_tokens": found.overall.trained_tokens,
            "sources": {name: one.loss for name, one in found.sources.items()},
        }
        return Evaluation(found.overall.loss, values, samples)

    def base(self, directory: RunDir) -> dict[str, Any]:
        """Scores and answers of the untrained model; kept in the run directory, so that a resumed run has them."""
        ranks = here()
        known = ranks.by_first(lambda: directory.read(directory.before) if directory.before.is_file() else None)
        if known is not None:
            return known
        say("baseline  evaluating the model as it was before training, on the held-out rows")
        found = self._scored(self._answers("base"))
        ranks.by_first(lambda: write_atomic(directory.before, json.dumps(found, ensure_ascii=False) + "\n"))
        return found

    def compare(self, before: dict[str, Any], directory: RunDir) -> None:
        """Print base and tuned side by side, with sample answers; keep the scores of the tuned model."""
        found = self._answers("tuned")
        after = self._scored(found)
        here().by_first(lambda: write_atomic(directory.after, json.dumps(after, ensure_ascii=False) + "\n"))
        names = {"exact_match": "exact match", "loss": "held-out loss", "stopped_share": "answers that stop"}
        rows = [(title, _cell(name, before[name]), _cell(name, after[name])) for name, title in names.items()]
        table(("held-out rows", "before", "after"), rows)
        for line in sample_lines(found.items, {"before": before["answers"], "after": after["answers"]}, SHOWN):
            say(line, indent=SAMPLE_INDENT)

    def _answers(self, label: str) -> Answers:
        """A whole evaluation: losses and generated answers."""
        with (
            self._accelerator.autocast(),
            progress(f"{label} loss", unit="examples") as losses,
            progress(f"{label} answers", unit="prompts") as answered,
        ):
            return evaluate(
                self._model,
                self._split,
                self._config.eval,
                reduction=self._config.loss.reduction,
                budget=self._config.speed.tokens_per_micro_batch,
                decode=self._decode,
                stop_ids=self.stop_ids,
                loss_progress=losses.update,
                answer_progress=answered.update,
            )

    def _samples(self) -> list[dict[str, Any]]:
        """Answers to the first ``eval.samples`` held-out prompts."""
        if not self._config.eval.samples:
            return []
        asked = items(self._split, self._decode, self.stop_ids, limit=self._config.eval.samples)
        said = answers(
            self._model.model,
            [item.prompt_ids for item in asked],
            stop_ids=self.stop_ids,
            pad_id=self.stop_ids[0],
            max_new_tokens=self._config.eval.max_new_tokens,
            batch_size=self._config.eval.batch_size,
        )
        return [
            {
                "where": item.where,
                "expected": item.expected,
                "answer": self._decode(answer.ids),
                "stopped": answer.stopped,
            }
            for item, answer in zip(asked, said, strict=True)
        ]

    @staticmethod
    def _scored(found: Answers) -> dict[str, Any]:
        """The scores over all sources, and the answers."""
        scores = found.metrics.overall
        return {
            "exact_match": scores.exact_match,
            "loss": scores.loss,
            "stopped_share": scores.stopped_share,
            "answers": [answer.text for answer in found.answers],
        }


def _cell(name: str, value: float | None) -> str:
    """A score as a cell: shares in percent, losses in nats."""
    if value is None:
        return ""
    return f"{value:.4f}" if name == "loss" else f"{value:.1%}"
