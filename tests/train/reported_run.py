"""A run directory with all files that its page reads, whose texts try to become markup."""

import json

from sft_cli.run_dir import RunDir
from tests.eval_report.evaluated import HOSTILE, write_lines

SHARE = {"intended": 1.0, "rows": 9, "tokens": 90, "trained_tokens": 30, "share_rows": 1.0, "share_tokens": 1.0,
         "share_trained": 1.0, "intended_passes": 1.0, "passes": 1.0}  # fmt: skip
SOURCE = {"format": HOSTILE, "licence": HOSTILE, "rows": 9, "used": 9, "dropped": 0, "truncated": 0, "tokens": 90,
          "trained_tokens": 30}  # fmt: skip


def reported_run(path) -> RunDir:
    """Return an interrupted run of 40 steps with two evaluations, samples, scores of a suite, and a comparison."""
    run = RunDir(path / "run")
    run.path.mkdir(parents=True)
    run.config.write_text(json.dumps({"run_name": HOSTILE, "model": {"path": HOSTILE}, "adapter": {"kind": HOSTILE}}))
    run.console.write_text(f"$ sft train {HOSTILE}  # 2026-01-01 00:00:00 +0000\nplan\n")
    split = {"examples": 9, "tokens": 90, "trained_tokens": 30, "trained_share": 1 / 3}
    manifest = {"splits": {"train": split, "validation": split}, "sources": {HOSTILE: SOURCE}}
    run.manifest.write_text(json.dumps({**manifest, "mix": {"of": "passes", "sources": {HOSTILE: SHARE}}}))
    run.data.write_text(json.dumps({"prepared_dir": HOSTILE, "fingerprint": "0" * 64}))
    run.environment.write_text(json.dumps({"device": HOSTILE, "dtype": "float32", "memory_estimate_bytes": 2**30}))
    steps = [
        {"step": n, "epoch": n / 20, "loss": 3 / n, "lr": 1e-4, "grad_norm": None if n == 3 else 1.0, "seconds": 0.5,
         "tokens_per_second": 100.0 + n, "memory": 2**29 + n}
        for n in range(1, 41)
    ]  # fmt: skip
    figures = {"arc": {"accuracy": 0.5, "missing": None}}
    evaluations = [{"step": n, "eval": True, "loss": 4 / n, "suites": figures} for n in (20, 40)]
    write_lines(run.metrics, [*steps[:20], evaluations[0], *steps[20:], evaluations[1]])
    sample = {"where": HOSTILE, "prompt": "p" * 9000 + HOSTILE, "expected": HOSTILE, "stopped": True}
    write_lines(run.samples, [{"step": 20, **sample, "answer": HOSTILE}, {"step": 40, **sample, "answer": " "}])
    scores = {"exact_match": 0.25, "loss": 3.5, "stopped_share": None}
    run.base_scores.write_text(json.dumps({**scores, "answers": [f"base {HOSTILE}"]}))
    run.tuned_scores.write_text(json.dumps({**scores, "exact_match": 0.75, "answers": [HOSTILE]}))
    (run.eval / "arc-1").mkdir(parents=True)
    (run.eval / "arc-1" / "suite.json").write_text(json.dumps({"suite": HOSTILE, "model": {"label": "tuned"}}))
    figure = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 4}
    (run.eval / "arc-1" / "scores.json").write_text(json.dumps({"metrics": {HOSTILE: figure}}))
    return run
