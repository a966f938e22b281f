"""A run in one, two and four processes: same losses and weights, failures, and resuming with another number."""

import json
import re
import signal

import pytest
import torch
from rounding import ROUNDING
from safetensors.torch import load_file

from sft_cli.run_dir import RunDir
from tests.train.distributed_helpers import TrainingProcesses
from tests.train.runs import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLOSE = 1e-5 * ROUNDING
"""Largest difference of losses (nats) and weights between numbers of processes, float32."""
# Rank 6 over four processes leaves one without a row; five examples cannot be divided evenly by two or four; in steps
# of 3 examples (the last of an epoch) a process has nothing to compute.
WORDS = ("trainer.dtype=float32", "trainer.eval_every=3", "trainer.save_every=3")
LORA = ("adapter.rank=6", "adapter.alpha=12")
KINDS = {
    "lora": LORA,
    "full": ("adapter=none", "trainer.lr=1e-3"),
    "nf4": (*LORA, "quant=nf4"),
    "ema": (*LORA, "trainer.average=ema"),
    "kl": (*LORA, "loss.kl=0.1", "loss.reduction=example"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def distributed_runs(tmp_path_factory, base, rows, home):
    """Runs below one directory; the same run is trained only once."""
    runs = Runs(tmp_path_factory.mktemp("together"), base, rows)
    return DistributedRuns(runs, home)


class DistributedRuns:
    def __init__(self, runs, home):
        self.runs, self.home, self.trained_runs = runs, home, {}

    def start(self, name, size, *words):
        new = [*self.runs.words(name), *WORDS, *words]
        return TrainingProcesses(new, size, self.runs.directory / "logs" / name, SFT_HOME=str(self.home))

    def resume(self, name, size, *words):
        logs = self.runs.directory / "logs" / f"{name}-again-{size}"
        return TrainingProcesses(
            ["--resume", str(self.runs.directory / name), *words], size, logs, SFT_HOME=str(self.home)
        )

    def run(self, name):
        return RunDir(self.runs.directory / name)

    def trained(self, size, kind, *words):
        key = f"{kind}-{size}-{'-'.join(words)}".replace("=", "_").replace(".", "_")
        if key not in self.trained_runs:
            process = self.start(key, size, *KINDS[kind], *words)
            assert process.wait() == [0] * size, process.output()
            self.trained_runs[key] = key
        return self.run(key)


def losses(run, key="loss"):
    """Return all losses of metrics.jsonl, including those of evaluations."""
    return [json.loads(line)[key] for line in run.metrics.read_text().splitlines()]


def weights(run):
    name = "adapter_model.safetensors" if run.adapter.is_dir() else "model.safetensors"
    return load_file(run.result / name)


def assert_same(run, other):
    """Compare losses and weights of two runs; ``pytest -s`` shows the differences."""
    ours, theirs = losses(run), losses(other)
    assert len(ours) == len(theirs) > 5
    mine, others = weights(run), weights(other)
    assert mine.keys() == others.keys()
    assert mine
    loss_difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    weight_difference = max((mine[name].float() - others[name].float()).abs().max().item() for name in mine)
    print(f"\n{run.path.name}, {other.path.name}: largest differences: {loss_difference:.1e} nats,", end=" ")
    print(f"{weight_difference:.1e} of weights")
    assert loss_difference <= CLOSE
    assert weight_difference <= CLOSE


@pytest.mark.parametrize(
    ("size", "kind", "words"),
    [
        (2, "lora", ("distributed=ddp",)),
        (4, "lora", ("distributed=ddp",)),
        (2, "lora", ("distributed=fsdp",)),
        (4, "lora", ("distributed=fsdp",)),
        (4, "full", ("distributed=ddp",)),
        (4, "full", ("distributed=fsdp",)),
        (4, "full", ("distributed=fsdp_hybrid",)),
        (2, "full", ("distributed=fsdp_zero2", "speed.gradient_checkpointing=full")),
        (2, "nf4", ("distributed=fsdp",)),
        (2, "ema", ("distributed=fsdp",)),
        (2, "kl", ("distributed=fsdp",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_number_of_processes_does_not_change_the_result(distributed_runs, size, kind, words):
    assert_same(distributed_runs.trained(size, kind, *words), distributed_runs.trained(1, kind))


@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_each_process_holds_a_shard_of_all_weights(distributed_runs, kind):
    """Each of 2 processes holds about half, also of 4-bit weights."""
    run = distributed_runs.trained(2, kind, "distributed=fsdp")
    output = (distributed_runs.runs.directory / "logs" / run.path.name / "rank-0.log").read_text()
    held, whole = re.search(r"a shard of every tensor \(FSDP2\): ([\d.]+) MiB of ([\d.]+) MiB", output).groups()
    assert float(held) / float(whole) < 0.65


def stopped(distributed_runs, name, size, step, *words):
    """Start a run, and stop it after a step by SIGTERM to its last process."""
    process = distributed_runs.start(name, size, *words)
    run = distributed_runs.run(name)
    process.until(lambda: run.metrics.is_file() and len(run.metrics.read_text().splitlines()) >= step)
    process.send(size - 1, signal.SIGTERM)
    assert process.wait() == [128 + signal.SIGTERM] * size, process.output()
    return run


@pytest.mark.parametrize(("kind", "words"), [("lora", ("distributed=ddp",)), ("full", ("distributed=fsdp",))])
def test_a_run_resumes_with_another_number_of_processes(distributed_runs, kind, words):
    """A run that is stopped with four processes, resumed with two, stopped, and finished with one is unchanged."""
    name = f"elastic-{kind}"
    run = stopped(distributed_runs, name, 4, 1, *KINDS[kind], *words)
    begun = len(losses(run))
    process = distributed_runs.resume(name, 2)
    process.until(lambda: len(run.metrics.read_text().splitlines()) > begun)
    process.send(0, signal.SIGUSR1)
    assert process.wait() == [128 + signal.SIGUSR1] * 2, process.output()
    process = distributed_runs.resume(name, 1)
    assert process.wait() == [0], process.output()
    assert_same(run, distributed_runs.trained(1, kind))


def test_a_sharded_checkpoint_equals_a_whole_one(distributed_runs):
    """Every tensor of the shards of four processes equals that of a single process."""
    from sft_cli.train.checkpoints.sharded_tensors import ShardedTensorReader

    def stored(run, name):
        folder = sorted(run.checkpoints.glob("step-*"), key=lambda one: int(one.name[5:]))[-1]
        assert (folder / "manifest.json").is_file()
        return folder, ShardedTensorReader(folder, name)

    four, one = distributed_runs.trained(4, "full", "distributed=fsdp"), distributed_runs.trained(1, "full")
    folder, _ = stored(four, "trained")
    assert len(list(folder.glob("trained.*-of-4.safetensors"))) == 4
    for name in ("trained", "optimizer"):
        (_, parts), (_, whole) = stored(four, name), stored(one, name)
        assert set(parts) == set(whole)
        assert len(whole) > 5
        for key in whole:
            torch.testing.assert_close(parts.read(key), whole.read(key), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        pytest.param("adapter.target_modules=[q_prj]", "'q_prj' matches no layer", id="before-the-weights"),
        pytest.param("trainer.lr_factors={nowhere: 0.1}", "nowhere", id="after-the-weights"),
    ],
)
def test_an_error_in_all_processes_is_printed_once(distributed_runs, word, problem):
    process = distributed_runs.start("mistaken", 2, word)
    assert process.wait(60) == [2, 2], process.output()
    output = "".join(log.read_text() for log in process.logs)
    assert output.count("error: ") == 1
    assert problem in output
    assert "Traceback" not in output
    assert not distributed_runs.run("mistaken").path.exists()


def test_a_killed_process_ends_the_others_with_an_error(distributed_runs):
    process = distributed_runs.start(
        "killed", 2, "trainer.epochs=400", "trainer.eval_every=1000", "trainer.save_every=1000"
    )
    run = distributed_runs.run("killed")
    process.until(lambda: run.metrics.is_file() and len(run.metrics.read_text().splitlines()) >= 3)
    process.send(1, signal.SIGKILL)
    assert process.wait(60) == [2, -signal.SIGKILL], process.output()
    output = process.logs[0].read_text()
    assert "error: process 0 of 2: another process of the run ended without reporting an error" in output
    assert "Traceback" not in output


def test_an_error_of_preparing_is_printed_once(distributed_runs, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": null}\n')
    process = distributed_runs.start("unprepared", 2, f"data.mix.local.path={file}")
    assert process.wait(60) == [2, 2], process.output()
    output = [log.read_text() for log in process.logs]
    assert "rows.jsonl:2" in output[0]
    assert not output[1]
