"""The quickstart: compared with the CPU; in NF4 stopped, resumed, evaluated and merged; with every optimizer."""

import math
import signal
import sys
import time
from pathlib import Path

from acceptance.findings import Check, largest_difference, last_line, losses, read_steps

WORDS = ("recipe=quickstart", "eval.compare_after_training=false")
NEAR = 0.03
"""Largest relative difference of a loss on a card and on a CPU, in any type."""
OPTIMIZERS = {
    "adamw": (),
    "adamw_8bit": ("trainer.optimizer=adamw_8bit",),
    "paged_adamw_8bit": ("trainer.optimizer=paged_adamw_8bit",),
    "adafactor": ("trainer.optimizer=adafactor",),
    "lion": ("trainer.optimizer=lion", "trainer.lr=2e-4"),
    "muon": ("adapter=none", "trainer.lr=1e-3", "trainer.optimizer=muon"),
    "full": ("adapter=none", "trainer.lr=1e-3"),
    "int8": ("quant=int8",),
    "float16": ("trainer.dtype=float16",),
}


def on_cpu(check: Check) -> None:
    """Train on the CPU what ``quickstart`` trains on the card."""
    for dtype in check.sizes["dtypes"]:
        run = check.directory / dtype
        words = (*WORDS, *check.sizes["words"], "trainer.device=cpu", f"trainer.dtype={dtype}", f"run_dir={run}")
        log = f"{dtype}.txt"
        status = check.start([sys.executable, "-m", "sft_cli", "train", *words], log).wait()
        check.found.expect(status == 0, f"{dtype} on the CPU ended with {status}: {last_line(check.text(log))}")
        if found := losses(run):
            check.found.number(**{f"last_loss_{dtype}": found[-1]})


def compare_with_cpu(check: Check) -> None:
    """Train the quickstart on the card and compare its losses with the CPU's."""
    run = check.directory / "run"
    text = check.sft("train", *WORDS, *check.sizes["words"], "trainer.device=cuda", f"run_dir={run}", log="train.txt")
    for begin in ("machine ", "memory ", "packing   verified"):
        check.found.expect(any(line.startswith(begin) for line in text.splitlines()), f"no line {begin!r} in the log")
    steps = read_steps(run)
    apart = max((abs(line["terms"]["nll"] / line["loss"] - 1) for line in steps), default=math.inf)
    check.found.expect(apart <= 1e-5, f"nll differs from the loss by {apart:.1e}")
    check.found.number(steps=len(steps), nll_from_loss=apart)
    if not check.dry and steps:
        check.found.number(tokens_per_second=max(line["tokens_per_second"] for line in steps))
    check.outcome_of("quickstart_cpu")
    for dtype in check.sizes["dtypes"]:
        expected = losses(check.directory.parent / "quickstart_cpu" / dtype)
        difference = largest_difference(losses(run), expected)
        check.found.number(**{f"from_cpu_{dtype}": difference})
        check.found.expect(difference <= NEAR, f"losses differ from those of the CPU in {dtype} by {difference:.2%}")


def nf4(check: Check) -> None:
    """Train twice, once with SIGTERM in the middle; resume; evaluate and merge what came out."""
    words = [
        "train", *WORDS, *check.sizes["words"], "quant=nf4", "trainer.device=cuda", "trainer.deterministic=true"
    ]  # fmt: skip
    straight, stopped = check.directory / "straight", check.directory / "stopped"
    first = check.start([*check.python, "sft_cli", *words, f"run_dir={straight}"], "straight.txt")
    second = check.start([*check.python, "sft_cli", *words, f"run_dir={stopped}"], "stopped.txt")
    while second.poll() is None and len(read_steps(stopped)) < check.sizes["stop"]:
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)
    status = second.wait()
    check.found.expect(status == 128 + signal.SIGTERM, f"the stopped run ended with {status}, not 143")
    check.found.number(stopped_after=len(read_steps(stopped)))
    check.sft("train", "--resume", str(stopped), log="resumed.txt")
    status = first.wait()
    check.found.expect(status == 0, f"the straight run ended with {status}: {last_line(check.text('straight.txt'))}")
    compare_runs(check, straight, stopped)
    evaluation = check.start(
        [*check.python, "sft_cli", "eval", str(straight), "--compare", "base", *check.sizes["eval"]], "eval.txt"
    )
    check.sft("merge", str(straight), "--out", str(check.directory / "merged"), log="merge.txt")
    status = evaluation.wait()
    check.found.expect(status == 0, f"sft eval ended with {status}: {last_line(check.text('eval.txt'))}")
    merged = (check.directory / "merged" / "model.safetensors").is_file()
    check.found.expect(merged, "sft merge wrote no model.safetensors")


def compare_runs(check: Check, straight: Path, resumed: Path) -> None:
    """Compare the losses and the adapters of a straight and of a resumed run, byte for byte."""
    difference = largest_difference(losses(resumed), losses(straight))
    check.found.number(resumed_from_straight=difference)
    check.found.expect(difference == 0, f"the resumed run's losses differ by up to {difference:.1e}, deterministic")
    files = [run / "adapter" / "adapter_model.safetensors" for run in (straight, resumed)]
    same = all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
    check.found.expect(same, "the resumed run's adapter has other bytes than the straight run's, deterministic")


def optimizers(check: Check) -> None:
    """Train a few steps with every optimizer, in int8, in float16, and all weights."""
    from acceptance.training import run

    for name in check.sizes["kinds"]:
        place = check.directory / name
        words = ["train", *WORDS, *check.sizes["words"], "trainer.device=cuda", *OPTIMIZERS[name], f"run_dir={place}"]
        try:
            log = run(check, name, words)
        except (Exception, SystemExit) as error:  # the others still run
            check.found.expect(False, f"{name}: {type(error).__name__}: {error}")
            continue
        found = losses(place)
        check.found.number(**{f"loss_{name}": found[-1], f"lines_{name}": len(log.splitlines())})
        check.found.expect(all(map(math.isfinite, found)), f"{name}: a loss is not finite: {found}")
        check.found.expect(found[-1] < found[0], f"{name}: the loss did not fall: {found[0]:.3f} to {found[-1]:.3f}")
        check.found.expect("MatMul8bitLt" not in log, f"{name}: bitsandbytes writes to the log")
