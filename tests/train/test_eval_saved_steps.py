"""Every checkpoint of a real run is evaluated once; the command goes on where it was stopped."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.eval import suite_session


@pytest.fixture
def options(tmp_path):
    """Write the option of a suite with three items."""
    folder = tmp_path / "options/eval"
    folder.mkdir(parents=True)
    items = [{"question": f"question {number}", "answer": "yes"} for number in range(3)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "few.yaml").write_text(
        f'suites:\n  few:\n    path: {tmp_path}/items.jsonl\n    prompt: "{{{{ question }}}}"\n'
        '    target: "{{ answer }}"\n    max_new_tokens: 4\n'
    )
    return tmp_path / "options"


def test_every_checkpoint_is_evaluated_once(runs, options, monkeypatch, capsys):
    done = runs.start("r", "trainer.max_steps=3", "trainer.save_every=1", "trainer.keep_checkpoints=3")
    asked = []
    original = suite_session.run_suite

    def counting(engine, suite, results, limits, shown):
        asked.append((results.path.parent.parent.name, len(results.read_answers())))
        return original(engine, suite, results, limits, shown)

    monkeypatch.setattr(suite_session, "run_suite", counting)
    words = ["eval", str(done.path), "-d", str(options), "eval=[heldout,few]", "eval.max_new_tokens=4"]
    execute([*words, "--checkpoints", "1,2", "--compare", "base"])
    assert asked == [("step-1", 0), ("step-1", 0), ("step-2", 0)]  # the trained and the base model, then step 2
    capsys.readouterr()
    execute([*words, "--checkpoints", "all", "--compare", "base"])
    assert asked[3:] == [("step-3", 0)]
    entries = json.loads((done.eval / "checkpoints.json").read_text())["checkpoints"]
    assert [entry["step"] for entry in entries] == [None, 1, 2, 3]
    losses = {
        line["step"]: line["loss"]
        for line in map(json.loads, done.metrics.read_text().splitlines())
        if line.get("eval")
    }
    assert losses[3] == pytest.approx(entries[3]["heldout"]["loss"], rel=1e-5)
    assert entries[1]["heldout"]["loss"] != entries[3]["heldout"]["loss"] != entries[0]["heldout"]["loss"]
    assert all(entry["suites"]["few"]["exact_match"]["n"] == 3 for entry in entries)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kept", "step", "1:"] in [line[:3] for line in shown]
    assert [line[0] for line in shown if line[:1] in (["base"], ["1"], ["2"], ["3"])][-4:] == ["base", "1", "2", "3"]
