"""``sft train`` on one CUDA device: the losses of the CPU, resuming, memory that runs out, evaluation and merging."""

import json
import shlex
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft_cli.cli import execute
from sft_cli.config.redaction import redact_secrets
from sft_cli.console import recorded
from sft_cli.train import loop, step
from tests.gpu.device import is_simulated, waits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning"),
]
WORDS = ("recipe=quickstart", "trainer.max_steps=4", "trainer.examples_per_step=8", "trainer.max_length=64",
         "data.mix.quickstart.validation_path=null", "data.mix.quickstart.max_rows=48", "data.val_rows=8",
         "eval.compare_after_training=false")  # fmt: skip
DROPOUT = ("trainer.device=cuda", "adapter.dropout=0.1")


class Trainer:
    """Runs of the quickstart in this process; each command line runs once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, name: str, *words: str, command: tuple[str, ...] = ()) -> Path:
        """Train, or resume by ``command``; return the run's directory."""
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # one process, several trainings
        directory = self.directory / name
        words = (*command, *words) if command else (*WORDS, f"run_dir={directory}", *words)
        with recorded(shlex.join(["sft", "train", *words]), redact_secrets):
            execute(["train", *words])
        return directory

    def losses(self, *words: str) -> list[float]:
        """Return the loss of each step."""
        directory = self.directory / "-".join(words).replace("/", "_")
        if not directory.exists():
            self.run(directory.name, *words)
        return [line["loss"] for line in steps(directory)]


def steps(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval" not in line]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("train")
        patch.setenv("SFT_HOME", str(directory / "home"))
        yield Trainer(directory)


def test_float32_has_the_losses_of_the_cpu(trainer):
    found = trainer.losses("trainer.device=cuda", "trainer.dtype=float32")
    expected = trainer.losses("trainer.device=cpu", "trainer.dtype=float32")

    assert found == pytest.approx(expected, rel=1e-5 if is_simulated() else 1e-3)


FULL = ("adapter=none", "trainer.lr=1e-3")
KINDS = {
    "bfloat16": ("trainer.dtype=bfloat16",),
    "float16": ("trainer.dtype=float16",),
    "nf4": ("quant=nf4",),
    "int8": ("quant=int8",),
    "full": FULL,
    "muon": (*FULL, "trainer.optimizer=muon"),
    "adamw_8bit": ("trainer.optimizer=adamw_8bit",),
    "selective": ("speed.gradient_checkpointing=selective",),
    "offload": ("speed.gradient_checkpointing=offload",),
    "kl": ("loss.kl=0.1",),
}


@pytest.mark.every_change("bfloat16", "float16", "nf4")
@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_near_those_of_the_cpu_in_float32(trainer, kind):
    words = [word for word in KINDS[kind] if not word.startswith(("trainer.dtype=", "speed."))]
    expected = trainer.losses("trainer.device=cpu", "trainer.dtype=float32", *words)

    assert trainer.losses("trainer.device=cuda", *KINDS[kind]) == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
def test_paged_state_learns_as_the_8_bit_state_does(trainer):
    expected = trainer.losses("trainer.device=cuda", "trainer.optimizer=adamw_8bit")

    assert trainer.losses("trainer.device=cuda", "trainer.optimizer=paged_adamw_8bit") == pytest.approx(
        expected, rel=1e-4
    )


@pytest.fixture
def straight(trainer) -> Path:
    """A run with dropout, which draws from the card's generator."""
    directory = trainer.directory / "straight"
    return directory if directory.exists() else trainer.run("straight", *DROPOUT)


def test_a_stopped_run_continues_with_the_same_numbers(trainer, straight, monkeypatch):
    real = loop.train_step

    def stopped(context, state, number, prefetcher):
        if number == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(context, state, number, prefetcher)

    monkeypatch.setattr(loop, "train_step", stopped)
    with pytest.raises(SystemExit):
        trainer.run("stopped", *DROPOUT)
    monkeypatch.setattr(loop, "train_step", real)
    resumed = trainer.run("stopped", command=("--resume", str(trainer.directory / "stopped")))

    assert [line["step"] for line in steps(resumed)] == [1, 2, 3, 4]
    own, other = (load_file(directory / "adapter" / "adapter_model.safetensors") for directory in (straight, resumed))
    for name, value in own.items():
        if is_simulated():
            assert torch.equal(value, other[name])
        else:
            torch.testing.assert_close(value, other[name], rtol=1e-2, atol=1e-4)


def test_a_step_that_runs_out_of_memory_is_repeated_with_the_same_numbers(trainer, straight, monkeypatch):
    """The GPU has 60% of the memory that the first step needs, until the step succeeds."""
    real, needed, before = step.accumulate_gradients, [], []

    def growth(*arguments):
        """Measure the first step."""
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        terms = real(*arguments)
        needed.append(torch.cuda.max_memory_allocated() - start)
        return terms

    def tight(*arguments):
        """Compute it in less memory."""
        before.append(torch.cuda.memory_allocated())
        total = torch.cuda.get_device_properties(0).total_memory
        if len(before) == 1:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.6 * needed[0]) / total)
        terms = real(*arguments)
        torch.cuda.set_per_process_memory_fraction(1.0)
        return terms

    for name, function in (("roomy", growth), ("tight", tight)):
        monkeypatch.setattr(step, "accumulate_gradients", function)
        trainer.run(name, *DROPOUT)

    attempts = len(before) - 4 + 1
    assert attempts > 1
    if is_simulated():
        assert set(before[:attempts]) == {before[0]}  # the failed attempts left no memory allocated
    losses = [[line["loss"] for line in steps(trainer.directory / name)] for name in ("roomy", "tight")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6 if is_simulated() else 1e-3)


def test_run_is_evaluated_and_merged_on_the_gpu(trainer, straight, capsys):
    """Merging compares the answers of the merged model with those of the adapter itself."""
    for words in (["eval", str(straight)], ["merge", str(straight), "--out", str(trainer.directory / "merged")]):
        with recorded(shlex.join(["sft", *words]), redact_secrets):
            execute(words)

    assert (trainer.directory / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize("more", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_step_waits_for_the_device_once(trainer, monkeypatch, more):
    """A step waits only when its numbers are read for the log; the test detects another wait."""
    found, train_step, accumulate = [], loop.train_step, step.accumulate_gradients

    def watched(*arguments):
        with waits() as seen:
            metrics = train_step(*arguments)
        found.append(seen)
        return metrics

    def waiting(*arguments):
        terms = accumulate(*arguments)
        for _ in range(more):
            terms["loss"].item()
        return terms

    monkeypatch.setattr(loop, "train_step", watched)
    monkeypatch.setattr(step, "accumulate_gradients", waiting)
    trainer.run(f"watched-{more}", "trainer.device=cuda")

    assert [len(seen) for seen in found] == [1 + more] * 4, "\n".join(found[0])
