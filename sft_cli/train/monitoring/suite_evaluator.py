"""Ask suites during training: a few items each, in the precision of training, without a change of the model."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sft_cli.chat.template import server
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.distributed.process_group import World
from sft_cli.eval.engine.local import EngineModel, local_answers
from sft_cli.eval.engine.prompts import ServedPrompts
from sft_cli.eval.engine.run import run_suite
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model_config
from sft_cli.progress import progress
from sft_cli.run_dir import RunDir
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.results import open_results
from sft_cli.suites.scores import score_suite
from sft_cli.train.monitoring.best import TrainingSuites
from sft_cli.train.parallel import ParallelModel

LABEL = "training"
"""The name of the model in the results."""


class SuiteEvaluator:
    """Asks the suites of ``trainer.eval_suites``; answers and scores are in ``eval/training/step-N``."""

    def __init__(
        self,
        config: Config,
        directory: RunDir,
        suites: TrainingSuites,
        loss_model: LossModel,
        stop_ids: Sequence[int],
        parallel: ParallelModel,
    ) -> None:
        """Create the evaluator.

        Args:
            config: The settings of the run.
            directory: The run directory, with its tokenizer.
            suites: The suites with the items to ask; they may be none.
            loss_model: The model that is trained.
            stop_ids: Tokens that end an answer.
            parallel: How the processes of the run compute the model.
        """
        self._config, self._directory, self._loss_model = config, directory, loss_model
        self._suites, self.best, self._stop_ids = suites.suites, suites.best, tuple(stop_ids)
        self._parallel, self._root = parallel, directory.eval / "training"
        self._settings = {
            "default_max_new_tokens": config.eval.max_new_tokens,
            "stop_ids": list(stop_ids),
            "dtype": config.trainer.dtype.value,
            "template_variables": dict(config.template.variables),
        }

    @cached_property
    def _engine(self) -> EngineModel:
        """The model as the engine sees it."""
        config, directory = self._config, self._directory
        tokenizer = server.load_server_tokenizer(
            directory.tokenizer, load_model_config(config.model), trust_remote_code=config.model.trust_remote_code
        )
        return EngineModel(
            model=self._loss_model.model,
            loss_model=self._loss_model,
            prompts=ServedPrompts(tokenizer, self._stop_ids, config.template.variables),
            stop_ids=self._stop_ids,
            max_tokens=resolved(config.speed.tokens_per_micro_batch),
            batch_size=config.eval.batch_size,
            max_new_tokens=config.eval.max_new_tokens,
        )

    @property
    def has_suites(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self._suites)

    def evaluate(self, step: int) -> dict[str, dict[str, float | None]]:
        """Return the figures of each suite after a step, by suite and metric; the caller enters autocast.

        Rank 0 asks the items while the others wait. Of a sharded model, every process computes the same answers, and
        rank 0 writes them.
        """
        world = self._parallel.world
        if not self._parallel.is_sharded:
            return world.run_on_main(partial(self._evaluate_into, self._root / f"step-{step}", step))
        with ExitStack() as stack:
            place = self._root if world.is_main else Path(stack.enter_context(TemporaryDirectory(prefix="sft-eval-")))
            found = self._evaluate_into(place / f"step-{step}", step)
        return world.broadcast_object(found)

    def _evaluate_into(self, directory: Path, step: int) -> dict[str, dict[str, float | None]]:
        """Ask all suites and write their results into a directory."""
        # A run that was resumed before this step computes it again, from weights that may differ in the last bit.
        shutil.rmtree(directory, ignore_errors=True)
        model = {"label": LABEL, "step": step}
        return {suite.name: self._figures(suite, directory, model, step) for suite in self._suites}

    def _figures(
        self, suite: LoadedSuite, directory: Path, model: Mapping[str, Any], step: int
    ) -> dict[str, float | None]:
        results = open_results(directory, suite, model, self._settings)
        with progress(f"step {step} {suite.name}", unit="items") as shown:
            # This process answers all items: it is alone, or the weights are sharded and every process must follow.
            run_suite(local_answers(self._engine), suite, results, EvalLimits(), shown, World())
        scored = score_suite(suite, results.read_answers())
        results.write_scores(scored.verdicts, scored.scores)
        return {name: figure["value"] for name, figure in scored.scores["metrics"].items()}
