"""Compare training speed, memory and loss curves of `sft train` and other trainers on the same rows and model.

    python scripts/bench/bench_train.py [--model llama58m] [--rows alpaca] [--steps 14] [--rounds 3] [--dtype bfloat16]
        [--only ours trl_best] [--ours "float32: trainer.dtype=float32"] [--also "name: command"] [--threads 2]

Models have random weights and real shapes (train_work.py); LoRA of rank 16 on every linear layer, AdamW, constant
learning rate, 8 examples per step. In every round each trainer runs in a new process, sequentially; its first steps
(--warm) are not timed. Padding tokens are not counted. Ratios are those of medians over rounds. `foreign` is the number
of cores used by other processes during a run: it should be near 0.

- ours: `sft train` as a user types it; --ours adds variants with other overrides
- trl_default: SFTTrainer with its defaults (padded, checkpointing)
- trl_best: its fastest settings here: packed by best fit to 1,024 tokens, no checkpointing
- trl_free: padding-free, no checkpointing
- trainer: transformers' Trainer around a PEFT model, padded
- loop, loop_free: a loop by hand (train_loop.py) that packs rows, with and without checkpointing
- --also runs another command in the same rounds; it writes a Result (train_work.py) to the file named by $RESULT

`--model llama4m --rows equal` are small steps, of 8 rows of 150 tokens: the time beyond their products shows there.

The floor is the time of the operations that LoRA on frozen weights requires, at the speed of one matrix product
measured in the same run. `of floor` is the share of this speed that a trainer reaches.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from train_work import (
    Result,
    floor_flops,
    make_adapter,
    make_model,
    make_rows,
    make_tokenizer,
    product_rate,
    training_words,
    write_rows,
)

HERE = Path(__file__).parent
PEERS = {
    "trl_default": {"who": "trl", "mode": "padded", "checkpointing": True},
    "trl_best": {"who": "trl", "mode": "packing", "checkpointing": False},
    "trl_free": {"who": "trl", "mode": "padding_free", "checkpointing": False},
    "trainer": {"who": "trainer", "mode": "padded", "checkpointing": False},
    "loop": {"who": "loop", "mode": "packed", "checkpointing": True},
    "loop_free": {"who": "loop", "mode": "packed", "checkpointing": False},
}
SEED, LR, PACKED_TO, MAX_LENGTH = 42, 1e-4, 1024, 4096


def main() -> None:
    """Run the rounds and print the tables."""
    options = arguments()
    scratch = Path(tempfile.mkdtemp(prefix="bench-train-"))
    rows = make_rows(options.rows, (options.steps + options.warm) * options.examples)
    write_rows(rows, scratch / "rows.jsonl")
    cuda = options.device == "cuda"
    # On a CPU the other trainers are fastest with float32 weights and autocast; sft train rounds weights on loading.
    make_model(options.model, scratch / "model", options.dtype if cuda else "float32", options.device)
    make_adapter(scratch / "model", scratch / "adapter")
    make_tokenizer(scratch / "tokenizer")
    order = np.random.default_rng([SEED, 0, 0]).permutation(len(rows)).tolist()
    trainers = selected_trainers(options)
    results: dict[str, list[tuple[Result, float]]] = {name: [] for name in trainers}
    rates = []
    for _ in range(options.rounds):
        rates.append(product_rate(options.dtype, options.device, options.model))
        for name, command in trainers.items():
            results[name].append(run_trainer(name, command, options, scratch, order))
    steps = [order[at : at + options.examples] for at in range(0, len(rows), options.examples)][options.warm :]
    work = [[(len(rows[place][0]), len(rows[place][0]) - rows[place][1]) for place in step] for step in steps]
    if options.json:
        every = {name: [vars(result) for result, _ in runs] for name, runs in results.items()}
        options.json.write_text(json.dumps(every))
    print_results(results, floor_flops(options.model, work), statistics.median(rates), work)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama58m")
    parser.add_argument("--rows", default="alpaca", choices=["alpaca", "equal", "system", "long", "unrolled"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--budget", default="auto", help="tokens of a micro-batch of sft train")
    parser.add_argument("--packs", type=int, default=1, help="rows of 1,024 tokens in a packed batch of TRL")
    parser.add_argument("--packed-to", type=int, default=PACKED_TO)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quant", default="none", choices=["none", "nf4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--through", help="module that runs the trainers: python -m THROUGH MODULE ARGUMENTS")
    parser.add_argument("--json", type=Path, help="file for the results of every run")
    parser.add_argument("--ours", action="append", default=[], help="NAME: words of sft train")
    parser.add_argument("--also", action="append", default=[], help="NAME: command")
    return parser.parse_args()


def selected_trainers(options: argparse.Namespace) -> dict[str, Any]:
    """Return the trainers to run: names with settings, overrides, or a command."""
    every: dict[str, Any] = {"ours": []}
    for text in options.ours:
        name, _, words = text.partition(":")
        every[name] = shlex.split(words)
    every |= PEERS
    for text in options.also:
        name, _, command = text.partition(":")
        every[name] = command.strip()
    return {name: what for name, what in every.items() if options.only is None or name in options.only}


def run_trainer(
    name: str, what: Any, options: argparse.Namespace, scratch: Path, order: list[int]
) -> tuple[Result, float]:
    """Run a trainer once, and return its result and the cores used by other processes."""
    out = scratch / f"{name}.json"
    out.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(options.threads), "SFT_HOME": str(scratch / "home"), "PYTHONPATH": path,
    }  # fmt: skip
    if isinstance(what, str):
        command, environment["RESULT"] = shlex.split(what), str(out)
    elif isinstance(what, dict):
        work = {
            **what, "rows": str(scratch / "rows.jsonl"), "order": order, "model": str(scratch / "model"),
            "tokenizer": str(scratch / "tokenizer"), "adapter": str(scratch / "adapter"),
            "scratch": str(scratch / "peer"), "result": str(out),
            "warm": options.warm, "examples": options.examples, "dtype": options.dtype, "threads": options.threads,
            "longest": options.packed_to, "packs": options.packs, "lr": LR, "quant": options.quant,
            "budget": micro_batch_tokens(options, scratch),
        }  # fmt: skip
        (scratch / "work.json").write_text(json.dumps(work))
        command = [*python(options), "train_peers", str(scratch / "work.json")]
    else:
        command = our_command(name, what, options, scratch)
    started = time.time()
    before = busy()
    with (scratch / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    passed = time.time() - started
    foreign = max(0.0, (busy() - before - usage.ru_utime - usage.ru_stime) / passed)
    if status:
        sys.exit(f"{name} failed:\n{(scratch / f'{name}.log').read_text()[-3000:]}")
    found = (
        read_ours(scratch / f"run-{name}", options, started)
        if isinstance(what, list)
        else Result(**json.loads(out.read_text()))
    )
    found = found if options.device == "cuda" else Result(**{**vars(found), "peak": usage.ru_maxrss * 1024})
    print(f"{name:14} {sum(found.tokens) / sum(found.seconds):8,.0f} tokens/s  foreign {foreign:.2f}", flush=True)
    return found, foreign


def our_command(name: str, words: list[str], options: argparse.Namespace, scratch: Path) -> list[str]:
    """Return the `sft train` command for the same rows, with a new run directory each time."""
    run = scratch / f"run-{name}"
    if run.exists():
        subprocess.run(["rm", "-r", str(run)], check=True)
    usual = training_words(scratch / "rows.jsonl", scratch / "model", scratch / "tokenizer", run)
    return [
        *python(options), "sft_cli", "train", *usual, f"adapter.start_from={scratch / 'adapter'}",
        f"quant={options.quant}", f"trainer.seed={SEED}", f"trainer.lr={LR}",
        f"trainer.examples_per_step={options.examples}",
        f"trainer.max_length={MAX_LENGTH}", f"speed.tokens_per_micro_batch={options.budget}",
        f"trainer.dtype={options.dtype}", f"trainer.device={options.device}", *words,
    ]  # fmt: skip


def micro_batch_tokens(options: argparse.Namespace, scratch: Path) -> int:
    """Return the tokens of a micro-batch for a loop by hand: those of `sft train`, which records what auto chose."""
    if options.budget != "auto":
        return int(options.budget)
    config = scratch / "run-ours" / "config.yaml"
    return yaml.safe_load(config.read_text())["speed"]["tokens_per_micro_batch"] if config.exists() else MAX_LENGTH


def python(options: argparse.Namespace) -> list[str]:
    """Return the command that runs a module, to be followed by its name."""
    return [sys.executable, "-m", *([options.through] if options.through else [])]


def read_ours(run: Path, options: argparse.Namespace, started: float) -> Result:
    """Return the result of an `sft train` run, from its metrics."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "seconds" in step]
    timed = steps[options.warm :]
    return Result(
        seconds=[step["seconds"] for step in timed],
        tokens=[step["tokens"] for step in timed],
        trained=[step["trained_tokens"] for step in timed],
        losses=[step["loss"] for step in steps],
        peak=max(step["memory"] for step in steps),
        reserved=0,
        start=steps[0].get("at", started) - started,
    )


def busy() -> float:
    """Return the seconds that all processors together have worked."""
    fields = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def print_results(
    results: dict[str, list[tuple[Result, float]]], flops: float, rate: float, work: list[list[tuple[int, int]]]
) -> None:
    """Print the tables."""
    tokens = sum(length for step in work for length, _ in step)
    each = flops / tokens
    print(f"\nfloor: {each / 1e9:.2f} GFLOP a token, {rate / 1e9:,.0f} GFLOP/s, {rate / each:,.0f} tokens/s")
    print("| | tokens/s | trained tokens/s | s a step | ratio | of floor | peak MiB | first step s | foreign |")
    print("|---|---|---|---|---|---|---|---|---|")
    speeds = {
        name: statistics.median(sum(one.tokens) / sum(one.seconds) for one, _ in runs) for name, runs in results.items()
    }
    base = speeds.get("ours", max(speeds.values()))
    for name, runs in results.items():
        trained = statistics.median(sum(one.trained) / sum(one.seconds) for one, _ in runs)
        step = statistics.median(statistics.median(one.seconds) for one, _ in runs)
        peak = statistics.median(one.peak for one, _ in runs) / 2**20
        start = statistics.median(one.start for one, _ in runs)
        foreign = max(foreign for _, foreign in runs)
        print(
            f"| {name} | {speeds[name]:,.0f} | {trained:,.0f} | {step:.3f} | {base / speeds[name]:.2f} |"
            f" {speeds[name] * flops / tokens / rate:.0%} | {peak:,.0f} | {start:.1f} | {foreign:.2f} |"
        )
    print("\nlosses, step by step (packed peers put other rows in a step)")
    for name, runs in results.items():
        print(f"{name:14}", " ".join(f"{loss:.4f}" for loss in runs[0][0].losses[:14]))


if __name__ == "__main__":
    main()
