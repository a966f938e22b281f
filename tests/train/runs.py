"""Runs of ``sft train`` in the process of the test."""

import shlex
from pathlib import Path

from sft_cli.run_dir import RunDir


class Runs:
    """Runs of ``sft train`` in this process on the tiny model, below one directory."""

    def __init__(self, directory: Path, base: Path, rows: Path) -> None:
        self.directory, self.base, self.rows = directory, base, rows

    def words(self, name: str) -> list[str]:
        """The settings of a run with this name."""
        return [
            "data=local",
            f"data.mix.local.path={self.rows}",
            "data.val_fraction=0.2",
            f"model.path={self.base}",
            "template=plain",
            "trainer.max_length=256",
            "speed.tokens_per_micro_batch=256",
            "trainer.examples_per_step=5",
            "trainer.lr=1e-2",
            "trainer.epochs=2",
            "trainer.warmup_ratio=0",
            "eval.samples=0",
            f"run_dir={self.directory / name}",
        ]

    def start(self, name: str, *overrides: str) -> RunDir:
        """A new run."""
        return self._train(name, [*self.words(name), *overrides])

    def resume(self, name: str, *overrides: str) -> RunDir:
        """``sft train --resume DIR``."""
        return self._train(name, ["--resume", str(self.directory / name), *overrides])

    def _train(self, name: str, words: list[str]) -> RunDir:
        from accelerate.state import AcceleratorState

        from sft_cli.cli import execute
        from sft_cli.config.redaction import redact_secrets
        from sft_cli.console import recorded

        AcceleratorState._reset_state(reset_partial_state=True)  # one process, several trainings
        with recorded(shlex.join(["sft", "train", *words]), redact_secrets):
            execute(["train", *words])
        return RunDir(self.directory / name)
