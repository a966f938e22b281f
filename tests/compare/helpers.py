"""Write runs with results, and run ``sft compare`` on them."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError

CONFIG = "run_name: {name}\ntrainer:\n  lr: {lr}\nadapter:\n  rank: 8\n"
DEFINITION = {"kind": "generate", "version": 1, "scorer": "exact", "path": "items.jsonl", "limit": None}


def write_run(folder, name, *, lr=0.001, weight=1):
    run = folder / name
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG.format(name=name, lr=lr))
    inputs = {"clean": [], "mix": {"sources": {"mine": {"weight": weight}}}}
    (run / "manifest.json").write_text(json.dumps({"inputs": inputs}))
    return run


def write_suite(run, scores, suite="facts", *, digest="01234567", label="tuned", ids=None, clusters=None, **changed):
    """Write the results of a suite: a list of scores per metric, whose first item has id q0."""
    path = run / "eval" / f"{suite}-{digest}"
    path.mkdir(parents=True)
    record = {
        "suite": suite,
        "definition": {**DEFINITION, **changed.get("definition", {})},
        "settings": {"dtype": "float32", "temperature": 0, **changed.get("settings", {})},
        "data": {"fingerprint": changed.get("fingerprint", "f")},
        "model": {"label": label, "weights": changed.get("weights", "w")},
        "sft_cli": changed.get("version", "1"),
    }
    (path / "suite.json").write_text(json.dumps(record))
    number = len(next(iter(scores.values())))
    ids = ids or [f"q{index}" for index in range(number)]
    answers, verdicts = [], []
    for index, name in enumerate(ids):
        for sample in range(changed.get("samples", 1)):
            line = {"id": name, "sample": sample, "cluster": clusters[index] if clusters else "", "tags": {}}
            answers.append({**line, "prompt": f"Question {name}", "answer": f"{run.name} says {name}", "num_tokens": 5})
            values = {metric: values[index] for metric, values in scores.items() if values[index] is not None}
            verdicts.append({"id": name, "sample": sample, "scores": values, "label": "", "reason": f"why {name}"})
    (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    (path / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in verdicts))
    (path / "scores.json").write_text(json.dumps({"metrics": changed.get("metrics", {}), "by_tag": {}, "counts": {}}))
    return path


def shown(capsys, *words):
    assert execute(["compare", *words]) == 0
    return capsys.readouterr().out


def compared(capsys, *words):
    return json.loads(shown(capsys, *words, "--json"))


def fails(*words):
    with pytest.raises(SftError) as caught:
        execute(["compare", *words])
    return caught.value
