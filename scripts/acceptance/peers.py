"""Speed against a loop by hand with transformers and PEFT, and against TRL, by scripts/bench/bench_train.py."""

import json
import sys
from importlib.util import find_spec
from typing import Any

from acceptance.findings import Check, last_line

LEAST = 1.4
"""Least ratio to the speed of the loop by hand."""


def lora_1_5b(check: Check) -> None:
    """Train the same rows with sft, with the loop by hand and with TRL, each in a process of its own."""
    trainers = ["ours", "loop", "loop_free"]
    if find_spec("trl") is None:
        check.found.skip("TRL is not installed")
    else:
        trainers.append("trl_best")
    results = check.directory / "results.json"
    words = ["--device", "cuda", "--only", *trainers, "--json", str(results), *check.sizes["words"]]
    words += ["--through", "tests.cuda_simulator"] if check.dry else []
    status = check.start([sys.executable, "-m", *through(check), *words], "bench.txt").wait()
    text = check.text("bench.txt")
    print(text)
    check.found.expect(status == 0, f"bench_train.py ended with {status}: {last_line(text)}")
    if status:
        return
    runs: dict[str, list[dict[str, Any]]] = json.loads(results.read_text(encoding="utf-8"))
    for name, found in runs.items():
        check.found.number(**{f"loss_{name}": found[0]["losses"][-1], f"peak_{name}": found[0]["peak"]})
    if check.dry:
        check.found.skip("ratios of speeds: the card is simulated")
        return
    speeds = {name: max(sum(run["tokens"]) / sum(run["seconds"]) for run in found) for name, found in runs.items()}
    ratios = {f"to_{name}": speeds["ours"] / speed for name, speed in speeds.items() if name != "ours"}
    check.found.number(tokens_per_second=speeds["ours"], **ratios)
    check.found.expect(ratios["to_loop"] >= LEAST, f"{ratios['to_loop']:.2f} times the loop by hand, not {LEAST}")


def through(check: Check) -> list[str]:
    """Return the words that run bench_train.py: it makes the model on the card."""
    return ["tests.cuda_simulator", "bench_train"] if check.dry else ["bench_train"]
