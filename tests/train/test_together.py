"""One run in one, two and four processes: the same losses, the same weights; one fails, all end; any number goes on."""

import json
import re
import signal

import pytest
import torch
from rounding import ROUNDING
from safetensors.torch import load_file

from sft_cli.run_dir import RunDir
from tests.train.together_helpers import Together

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLOSE = 1e-5 * ROUNDING
"""Largest difference of losses (nats) and weights between numbers of processes, float32."""
# Rank 6 over four processes leaves one without a row; five examples do not divide by two or four; with 3 examples of
# some steps (the last of an epoch) a process has nothing to compute.
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
def place(tmp_path_factory, base, rows, home):
    """Starts runs below one directory; trains those that are asked for again only once."""
    from conftest import Runs

    runs = Runs(tmp_path_factory.mktemp("together"), base, rows)
    return Place(runs, home)


class Place:
    def __init__(self, runs, home):
        self.runs, self.home, self.known = runs, home, {}

    def begin(self, name, size, *words):
        new = [*self.runs.words(name), *WORDS, *words]
        return Together(new, size, self.runs.directory / "logs" / name, SFT_HOME=str(self.home))

    def resume(self, name, size, *words):
        logs = self.runs.directory / "logs" / f"{name}-again-{size}"
        return Together(["--resume", str(self.runs.directory / name), *words], size, logs, SFT_HOME=str(self.home))

    def run(self, name):
        return RunDir(self.runs.directory / name)

    def trained(self, size, kind, *words):
        key = f"{kind}-{size}-{'-'.join(words)}".replace("=", "_").replace(".", "_")
        if key not in self.known:
            process = self.begin(key, size, *KINDS[kind], *words)
            assert process.wait() == [0] * size, process.said()
            self.known[key] = key
        return self.run(key)


def losses(run, key="loss"):
    """Every loss of metrics.jsonl, those of evaluations among them."""
    return [json.loads(line)[key] for line in run.metrics.read_text().splitlines()]


def weights(run):
    name = "adapter_model.safetensors" if run.adapter.is_dir() else "model.safetensors"
    return load_file(run.result / name)


def assert_same(run, other):
    """The figures are seen with ``pytest -s``."""
    ours, theirs = losses(run), losses(other)
    assert len(ours) == len(theirs) > 5
    mine, others = weights(run), weights(other)
    assert mine.keys() == others.keys()
    assert mine
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    moved = max((mine[name].float() - others[name].float()).abs().max().item() for name in mine)
    print(f"\n{run.path.name}, {other.path.name}: losses differ by {apart:.1e} nats, weights by {moved:.1e}")
    assert apart <= CLOSE
    assert moved <= CLOSE


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
def test_the_number_of_processes_does_not_change_what_is_learned(place, size, kind, words):
    assert_same(place.trained(size, kind, *words), place.trained(1, kind))


@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_each_process_holds_its_part_of_all_weights(place, kind):
    """Also of 4-bit ones: 2 processes hold half each, but for what one row is too few to split."""
    run = place.trained(2, kind, "distributed=fsdp")
    said = (place.runs.directory / "logs" / run.path.name / "rank-0.log").read_text()
    held, whole = re.search(r"a part of every tensor \(FSDP2\): ([\d.]+) MiB of ([\d.]+) MiB", said).groups()
    assert float(held) / float(whole) < 0.65


def stopped(place, name, size, step, *words):
    """A run that SIGTERM to its last process stopped behind a step."""
    process = place.begin(name, size, *words)
    run = place.run(name)
    process.until(lambda: run.metrics.is_file() and len(run.metrics.read_text().splitlines()) >= step)
    process.send(size - 1, signal.SIGTERM)
    assert process.wait() == [128 + signal.SIGTERM] * size, process.said()
    return run


@pytest.mark.parametrize(("kind", "words"), [("lora", ("distributed=ddp",)), ("full", ("distributed=fsdp",))])
def test_a_run_goes_on_in_another_number_of_processes(place, kind, words):
    """Stopped in four, on in two, stopped again, finished in one: as if nothing had happened."""
    name = f"elastic-{kind}"
    run = stopped(place, name, 4, 1, *KINDS[kind], *words)
    begun = len(losses(run))
    process = place.resume(name, 2)
    process.until(lambda: len(run.metrics.read_text().splitlines()) > begun)
    process.send(0, signal.SIGUSR1)
    assert process.wait() == [128 + signal.SIGUSR1] * 2, process.said()
    process = place.resume(name, 1)
    assert process.wait() == [0], process.said()
    assert_same(run, place.trained(1, kind))


def test_a_checkpoint_in_parts_holds_what_a_whole_one_does(place):
    """Read by name from the parts of four processes, every tensor is that of a single process."""
    from sft_cli.train.checkpoints.sharded_tensors import ShardedTensorReader

    def stored(run, name):
        folder = sorted(run.checkpoints.glob("step-*"), key=lambda one: int(one.name[5:]))[-1]
        assert (folder / "manifest.json").is_file()
        return folder, ShardedTensorReader(folder, name)

    four, one = place.trained(4, "full", "distributed=fsdp"), place.trained(1, "full")
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
        pytest.param("trainer.lr_factors={nowhere: 0.1}", "nowhere", id="behind-them"),
    ],
)
def test_a_mistake_that_all_processes_find_is_told_once(place, word, problem):
    process = place.begin("mistaken", 2, word)
    assert process.wait(60) == [2, 2], process.said()
    said = "".join(log.read_text() for log in process.logs)
    assert said.count("error: ") == 1
    assert problem in said
    assert "Traceback" not in said
    assert not place.run("mistaken").path.exists()


def test_a_process_that_is_killed_ends_the_others_with_a_sentence(place):
    process = place.begin("killed", 2, "trainer.epochs=400", "trainer.eval_every=1000", "trainer.save_every=1000")
    run = place.run("killed")
    process.until(lambda: run.metrics.is_file() and len(run.metrics.read_text().splitlines()) >= 3)
    process.send(1, signal.SIGKILL)
    assert process.wait(60) == [2, -signal.SIGKILL], process.said()
    said = process.logs[0].read_text()
    assert "error: process 0 of 2: another process of the run ended without reporting an error" in said
    assert "Traceback" not in said


def test_rows_that_the_processes_cannot_prepare_are_told_once(place, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": null}\n')
    process = place.begin("unprepared", 2, f"data.mix.local.path={file}")
    assert process.wait(60) == [2, 2], process.said()
    said = [log.read_text() for log in process.logs]
    assert "rows.jsonl:2" in said[0]
    assert not said[1]
