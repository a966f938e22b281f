"""A curriculum with weights and replay, end to end: every copy of a row is an example once per epoch."""

import json
import shutil

import pytest

from sft_cli.cli import execute

STAGES = "data.stages=[{name: short, share: 1, order: by_length}, {name: rest, share: 2}]"


@pytest.fixture
def words(tmp_path):
    """A second source: five documents, one per line, trained as plain text."""
    (tmp_path / "wiki.txt").write_text("".join(f"Document {number} is about nothing.\n" for number in range(5)))
    wiki = "data.mix.wiki={path: %s, format: lines, role: replay, loss_weight: 0.5}" % (tmp_path / "wiki.txt")
    return [wiki, "data.mix.local.weight=2", "data.val_fraction=0.2", STAGES]


@pytest.mark.slow
def test_steps_resuming_and_evaluating_with_stages_weights_and_replay(runs, metrics, words, capsys):
    done = runs.start("r", *words, "trainer.save_every=1", "trainer.keep_checkpoints=20")
    manifest = json.loads(done.manifest.read_text())
    examples = 2 * 19 + 4
    assert manifest["splits"]["train"]["examples"] == examples
    assert [stage["examples"] for stage in manifest["stages"]] == [14, 28]

    steps = metrics(done)
    assert [step["examples"] for step in steps] == [5, 5, 5, 5, 5, 5, 5, 5, 2] * 2
    trained = sum(step["trained_tokens"] for step in steps)
    assert trained == 2 * manifest["splits"]["train"]["trained_tokens"]
    lengths = [step["tokens"] for step in steps[:2]]
    assert lengths == sorted(lengths)
    assert set(metrics(done, eval=True)[-1]["sources"]) == {"local", "wiki"}

    losses = [(step["step"], step["loss"]) for step in steps]
    shutil.rmtree(done.adapter)
    for number in range(4, 19):
        shutil.rmtree(done.checkpoints / f"step-{number}")
    runs.resume("r", "speed.tokens_per_micro_batch=512")
    again = [(step["step"], step["loss"]) for step in metrics(done)]
    assert [step for step, _ in again] == [step for step, _ in losses]
    assert [loss for _, loss in again] == pytest.approx([loss for _, loss in losses], rel=1e-4)

    capsys.readouterr()
    execute(["eval", str(done.path), "eval.max_new_tokens=4"])
    report = json.loads(next(done.eval.glob("heldout-*.json")).read_text())
    assert report["metrics"]["loss"] > 0
    assert {item["source"] for item in report["items"]} <= {"local", "wiki"}
