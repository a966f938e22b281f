"""``sft train`` in this process, of models whose weights are drawn on the card instead of read from a disk."""

import contextlib
import gc
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import save_file
from train_work import IDS, make_tokenizer, model_config, training_words, write_rows

from acceptance.findings import Check, read_steps
from sft_cli.cli import execute
from sft_cli.config.redaction import redact_secrets
from sft_cli.console import recorded
from sft_cli.model import load
from sft_cli.train import loop
from sft_cli.train.setup import preflight


@dataclass(frozen=True)
class Work:
    """What a model trains on.

    Attributes:
        shape: Name of the model's shape in train_work.SHAPES.
        documents: Documents of a step.
        length: Tokens of each, those of the common beginning included.
        shared: Tokens of the beginning that all documents share.
        steps: Optimizer steps.
    """

    shape: str
    documents: int
    length: int
    steps: int
    shared: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that a step computes: a common beginning once."""
        return self.shared + self.documents * (self.length - self.shared)


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        directory: The run.
        steps: Lines of metrics.jsonl.
        peak: Most bytes allocated on the card during the steps.
        peak_before: Most bytes since the weights were there, until the first step: the probe of packing.
        estimate: Bytes that the run expected.
        plan: What it recomputes, as its log has it.
        log: What it printed.
    """

    directory: Path
    steps: list[dict[str, Any]]
    peak: int
    peak_before: int
    estimate: int
    plan: str
    log: str

    def speed(self, warm: int) -> float:
        """Return tokens per second after the first ``warm`` steps."""
        timed = self.steps[warm:]
        return sum(step["tokens"] for step in timed) / sum(step["seconds"] for step in timed)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [step["loss"] for step in self.steps]


def train(check: Check, name: str, work: Work, *words: str) -> Trained:
    """Train LoRA on random rows and a model of random weights.

    Args:
        check: The check.
        name: Name of the run within the check.
        work: Shape and rows.
        words: More words of the command.
    """
    place = check.directory / name
    rows, model, tokenizer = place / "rows.jsonl", place / "model", place / "tokenizer"
    place.mkdir()
    write_rows(documents(work), rows)
    model_config(work.shape).save_pretrained(model)
    save_file({}, model / "model.safetensors")  # the files are looked for before the model is made
    make_tokenizer(tokenizer)
    usual = [
        *training_words(rows, model, tokenizer, place / "run"), "trainer.device=cuda",
        f"trainer.examples_per_step={work.documents}", f"trainer.max_length={work.length}",
        f"speed.tokens_per_micro_batch={max(work.tokens, work.length)}", "trainer.lr=1e-4", "data.val_fraction=0",
    ]  # fmt: skip
    expected: list[tuple[int, str]] = []
    choose = preflight.choose_checkpointing

    def remember(speed: Any, needed: Any, free: int, device: torch.device) -> Any:
        plan = choose(speed, needed, free, device)
        expected.append((needed.total(plan.mode, plan.layers), plan.describe()))
        return plan

    before: list[int] = []
    train_step = loop.train_step

    def first_step(*arguments: Any) -> Any:
        if not before:
            before.append(torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        return train_step(*arguments)

    with (
        patch.object(preflight, "choose_checkpointing", remember),
        patch.object(loop, "train_step", first_step),
        random_weights(),
    ):
        log = run(check, name, ["train", *usual, *words])
    peak = torch.cuda.max_memory_allocated()
    return Trained(place / "run", read_steps(place / "run"), peak, before[0], *expected[-1], log)


def run(check: Check, name: str, words: list[str]) -> str:
    """Run ``sft`` in this process and return what it printed; it raises what the command raises."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # one process, several trainings
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    log = check.directory / f"{name}.txt"
    try:
        with (
            log.open("w", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
            recorded(shlex.join(["sft", *words]), redact_secrets),
        ):
            execute(words)
    finally:
        text = log.read_text(encoding="utf-8")
        print(text)
    return text


def documents(work: Work) -> list[tuple[list[int], int]]:
    """Return rows of random ids with their prompt lengths; the second half of what is not shared is trained."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(10, IDS, (work.steps * work.documents, work.length), generator=generator)
    draw[:, : work.shared] = draw[0, : work.shared]
    prompt = work.shared + (work.length - work.shared) // 2
    return [(ids, prompt) for ids in draw.tolist()]


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Let the package load models whose weights are drawn on the device; the peak of memory counts from then on."""
    real = load.auto_class

    def auto_class(config: Any) -> Any:
        return RandomModel(real(config))

    with patch.object(load, "auto_class", auto_class):
        yield


@dataclass(frozen=True)
class RandomModel:
    """An auto class of transformers that draws the weights it would read, and quantizes them as usual."""

    real: Any

    def from_config(self, *arguments: Any, **options: Any) -> Any:
        """As the real one."""
        return self.real.from_config(*arguments, **options)

    def from_pretrained(self, path: str, *, config: Any, dtype: torch.dtype, device_map: Any, **options: Any) -> Any:
        """Draw weights on the device and load them as if they were read."""
        del options["revision"], options["trust_remote_code"], options["use_safetensors"]
        torch.manual_seed(0)
        with device_map[""]:
            drawn = self.real.from_config(config, dtype=dtype)
        kind, weights = type(drawn), drawn.state_dict()
        del drawn
        assert issubclass(kind, transformers.PreTrainedModel)
        model = kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, device_map=device_map, **options
        )
        del weights
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return model
