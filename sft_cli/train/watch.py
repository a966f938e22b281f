"""The held-out rows during a run: loss and sample answers while training, base and tuned side by side at its end."""

import json
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from sft_cli.chat.tokenizer import ChatTokenizer
from sft_cli.config.rundir import RunDir
from sft_cli.config.schema import Config
from sft_cli.console import say, table
from sft_cli.data.prepared import Split
from sft_cli.eval.evaluate import Evaluation as Answers
from sft_cli.eval.evaluate import evaluate
from sft_cli.eval.generate import answers
from sft_cli.eval.heldout import heldout_loss
from sft_cli.eval.items import items
from sft_cli.model.head import LossModel
from sft_cli.train.loop import Evaluation

SHOWN = 3
"""Sample answers in the closing table."""


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
        self._accelerator, self._tokenizer, self._stop_ids = accelerator, tokenizer, stop_ids

    def evaluate(self) -> Evaluation:
        """Held-out loss, and the answers to the first few held-out prompts."""
        with self._accelerator.autocast():
            found = heldout_loss(
                self._model,
                self._split,
                reduction=self._config.loss.reduction,
                budget=self._config.trainer.tokens_per_micro_batch,
                packed=self._model.packed,
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
        file = directory.eval / "before.json"
        if not file.is_file():
            say("before    evaluating the base model on the held-out rows")
            file.parent.mkdir(exist_ok=True)
            new = file.with_suffix(".tmp")
            new.write_text(json.dumps(self._scored(self._answers()), ensure_ascii=False) + "\n", encoding="utf-8")
            new.replace(file)
        return directory.read(file)

    def compare(self, before: dict[str, Any]) -> None:
        """Print base and tuned side by side, with sample answers."""
        found = self._answers()
        after = self._scored(found)
        names = {"exact_match": "exact match", "loss": "held-out loss", "stopped_share": "answers that stop"}
        rows = [(shown, _shown(name, before[name]), _shown(name, after[name])) for name, shown in names.items()]
        table(("held-out rows", "before", "after"), rows)
        if found.items:
            questions = [_question(item.prompt) for item in found.items]
            picked = [i * len(questions) // SHOWN for i in range(min(SHOWN, len(questions)))]
            rows = [
                (questions[i], found.items[i].expected, _short(before["answers"][i]), _short(after["answers"][i]))
                for i in picked
            ]
            table(("question", "reference", "before", "after"), rows)

    def _answers(self) -> Answers:
        """A whole evaluation: losses and generated answers."""
        with self._accelerator.autocast():
            return evaluate(
                self._model,
                self._split,
                self._config.eval,
                reduction=self._config.loss.reduction,
                budget=self._config.trainer.tokens_per_micro_batch,
                decode=self._decode,
                stop_ids=self._stop_ids,
            )

    def _samples(self) -> list[dict[str, Any]]:
        """Answers to the first ``eval.samples`` held-out prompts."""
        asked = items(self._split, self._decode, self._stop_ids, limit=self._config.eval.samples) if self._config.eval.samples else []
        said = answers(
            self._model.model,
            [item.prompt_ids for item in asked],
            stop_ids=self._stop_ids,
            pad_id=self._stop_ids[0],
            max_new_tokens=self._config.eval.max_new_tokens,
            batch_size=self._config.eval.batch_size,
        )
        return [
            {"where": item.where, "expected": item.expected, "answer": self._decode(answer.ids), "stopped": answer.stopped}
            for item, answer in zip(asked, said, strict=True)
        ]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode_batch([ids])[0]

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


def _shown(name: str, value: float | None) -> str:
    """A score as a cell: shares in percent, losses in nats."""
    if value is None:
        return ""
    return f"{value:.4f}" if name == "loss" else f"{value:.1%}"


def _question(prompt: str) -> str:
    """The end of a prompt on one line, where the question stands."""
    return _short(prompt[-240:], 160)


def _short(text: str, limit: int = 80) -> str:
    """The text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
