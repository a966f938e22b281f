"""Run directories as sft train writes them, of any number of steps, without training."""

import json
import math
from pathlib import Path

from sft_cli.run_dir import RunDir

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>'\"&{{ 7 * 7 }}\x1b[31m"
CONFIG = """\
run_name: {name}
prepared_dir: null
model:
  path: builtin:quickstart/model
trainer:
  lr: {lr}
  epochs: 2
  max_steps: null
seed: 0
"""


def step_line(step: int, per_epoch: int, start: float = 1_796_000_000.0) -> dict:
    """Return the line of a step whose loss falls, with a spike at step 37."""
    loss = 0.4 + 2.5 * math.exp(-step / 60) + 0.15 * math.sin(step * 12.9898) + (4.0 if step == 37 else 0.0)
    return {
        "step": step, "epoch": round(step / per_epoch, 4), "loss": loss, "terms": {"nll": loss},
        "lr": 2e-3 * (1 - step / (2 * per_epoch + 1)), "grad_norm": 1.5 + math.cos(step * 78.233) / 2, "examples": 16,
        "tokens": 800, "computed_tokens": 356, "trained_tokens": 58, "seconds": 0.5, "tokens_per_second": 1600.0,
        "memory": 700_411_904 + 4096 * step, "at": start + step / 2,
    }  # fmt: skip


def metrics_text(steps: int, per_epoch: int, eval_every: int = 50) -> str:
    """Return the content of metrics.jsonl with an evaluation every ``eval_every`` steps."""
    lines = []
    for step in range(1, steps + 1):
        lines.append(step_line(step, per_epoch))
        if step % eval_every == 0:
            loss = 0.5 + 2 * math.exp(-step / 60)
            values = {"loss": loss, "perplexity": math.exp(loss), "trained_tokens": 1001, "sources": {"mine": loss}}
            figures = {"suites": {"capitals": {"exact_match": min(1.0, step / 400)}}}
            lines.append({"step": step, "epoch": round(step / per_epoch, 4), "eval": True, **values, **figures})
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(
    path: Path, *, steps: int = 100, per_epoch: int = 100, lr: str = "0.002", recipe: str = "quickstart"
) -> RunDir:
    """Write a run that was interrupted after ``steps`` steps."""
    run = RunDir(path)
    path.mkdir(parents=True)
    run.config.write_text(CONFIG.format(name=path.name, lr=lr))
    run.environment.write_text(json.dumps({"sft_cli": "0.1.0", "packages": {"torch": "2.13.0"}, "device": "cpu"}))
    run.metrics.write_text(metrics_text(steps, per_epoch))
    command = f"$ sft train recipe={recipe} run_dir={path} trainer.lr={lr}  # 2026-12-01 03:37:16 +0000"
    run.console.write_text(f"{command}\nplan      200 steps\nstep 1\n{HOSTILE}\n")
    samples = [
        {"step": step, "where": f"heldout.jsonl:{n}", "prompt": f"Question {n} {HOSTILE}", "expected": f"right {n}",
         "answer": f"answer {n} after {step} {HOSTILE}", "stopped": n == 1}
        for step in range(50, steps + 1, 50) for n in (1, 2)
    ]  # fmt: skip
    run.samples.write_text("".join(json.dumps(line) + "\n" for line in samples))
    spike = {"step": 37, "loss": 5.2, "grad_norm": 9.0, "median": 1.6, "lr": 0.001, "skipped": False}
    spike["rows"] = [{"where": f"rows.jsonl:7 {HOSTILE}", "source": "mine", "tokens": 99, "loss": 5.2}]
    run.spikes.write_text(json.dumps(spike) + "\n")
    if steps >= 50:
        checkpoint = run.checkpoints / f"step-{steps}"
        checkpoint.mkdir(parents=True)
        progress = {"step": steps, "best_step": 50, "best_loss": 0.45, "without_improvement": 0}
        (checkpoint / "state.json").write_text(json.dumps({"progress": progress, "rest": [0] * 2000}))
        (checkpoint / "manifest.json").write_text("{}")
    return run


def finish(run: RunDir, step: int) -> None:
    """Make a run a finished one."""
    run.adapter.mkdir()
    end = {"step": step, "planned_steps": step, "exported_step": step, "reason": "completed"}
    run.end.write_text(json.dumps(end))
