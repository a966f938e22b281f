"""A run directory with results of both models, whose texts try to become markup."""

import json
from pathlib import Path

from sft_cli.run_dir import RunDir
from sft_cli.utils.hashing import json_digest

HOSTILE = (
    "</STYLE><script>document.title = 'owned'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
    "'\"&{{ 7 * 7 }}\x1b[31m"
)
RIGHT = {"tuned": (True, False, False, True), "base": (True, True, False, False)}
"""Whether each model is right on each item: right, regressed, failed, gained."""


def write_lines(file: Path, lines: list[dict]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_suite(directory: Path, model: str, name: str = "capitals", items: Path | None = None) -> None:
    """Write the results of a model on four items."""
    directory.mkdir(parents=True)
    definition = {"path": str(items or "absent.jsonl"), "prompt": "{{ q }}", "target": "{{ a }}", "id": "{{ id }}"}
    rows = [{"id": f"item-{n}", "q": f"Question {n} {HOSTILE}", "a": f"right {HOSTILE}"} for n in range(4)]
    record = {"suite": name, "model": {"label": model}, "definition": definition, "settings": {}, "origin": HOSTILE}
    record["data"] = {"fingerprint": json_digest(rows), "rows": 4, "ids": json_digest([row["id"] for row in rows])}
    if items is not None:
        write_lines(items, rows)
    (directory / "suite.json").write_text(json.dumps(record))
    answers = [
        {"id": row["id"], "sample": 0, "cluster": "", "tags": {"kind": HOSTILE, "part": n % 2}, "prompt": row["q"],
         "answer": f"{model} {HOSTILE}", "reasoning": "", "stopped": True, "num_tokens": 3}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    write_lines(directory / "answers.jsonl", answers)
    verdicts = [
        {"id": row["id"], "sample": 0, "scores": {"exact_match": float(right)}, "label": "", "extracted": None,
         "reason": "" if right else f"wrong {HOSTILE}"}
        for row, right in zip(rows, RIGHT[model], strict=True)
    ]  # fmt: skip
    write_lines(directory / "verdicts.jsonl", verdicts)
    figure = {"value": 0.5, "low": 0.15, "high": 0.85, "n": 4, "clusters": 4}
    wide = {**figure, "value": 103912.5, "low": 75290.1, "high": 138512.0}
    scores = {"metrics": {"exact_match": figure, "perplexity": wide, "bleu": {**figure, "low": None, "high": None}}}
    (directory / "scores.json").write_text(json.dumps(scores))


def evaluated_run(path: Path) -> RunDir:
    """Return a run with results of a suite, a report on held-out rows, and blamed rows."""
    run = RunDir(path / "run")
    write_suite(run.eval / "capitals-1", "tuned", items=path / "items.jsonl")
    write_suite(run.eval / "capitals-2", "base", items=path / "items.jsonl")
    rows = [
        {"where": f"rows.jsonl:{n}", "source": "mine", "prompt": "p" * 9000 + "END", "expected": "e", "answer": "",
         "correct": n == 0, "base_answer": "b", "base_correct": True}
        for n in range(2)
    ]  # fmt: skip
    scores = {"exact_match": 0.5, "loss": 1.25, "stopped_share": None, "items": 2, "examples": 2}
    report = {"suite": "heldout", "name": "heldout", "metrics": scores, "base": scores, "items": rows}
    (run.eval / "heldout.json").write_text(json.dumps(report | {"data": {"prepared_dir": "prepared"}}))
    blamed = {
        "where": ["train.jsonl:7", "train.jsonl:9"], "source": HOSTILE, "question": HOSTILE, "answer": HOSTILE,
        "count": 2, "relation": "contradicts", "similarity": 0.98, "answer_similarity": 1.0,
        "ledger": [{"fate": "used", "copies": 2}],
    }  # fmt: skip
    write_lines(run.eval / "capitals-1" / "blame.jsonl", [{"id": "item-1", "rows": [blamed]}])
    return run
