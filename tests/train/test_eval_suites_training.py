"""Suites during training: they change nothing in the model, and ``trainer.best`` decides which weights are exported."""

import json

import pytest
from safetensors.torch import load_file

from sft_cli.errors import SftError
from sft_cli.train.checkpoints import checkpoint_dir


@pytest.fixture
def suite(tmp_path):
    """Return the settings of a suite with five items, of which three are asked."""
    items = [{"question": f"question {number}", "answer": "yes" * (number % 2)} for number in range(5)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    key = "eval.suites.few"
    return [f"{key}.path={tmp_path}/items.jsonl", f"{key}.prompt={{{{ question }}}}", f"{key}.target={{{{ answer }}}}",
            f"{key}.max_new_tokens=3", "trainer.eval_suites=[few]", "trainer.eval_suite_items=3"]  # fmt: skip


LENGTH = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2", "trainer.keep_checkpoints=9"]


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def curve(run):
    values = ("step", "loss", "grad_norm", "lr")
    return [tuple(line[name] for name in values) for line in lines(run) if "eval" not in line]


def weights(run):
    return {file.name: file.read_bytes() for file in run.result.glob("*.safetensors")}


def test_suites_change_neither_the_loss_curve_nor_the_weights(runs, suite):
    words = [*LENGTH, "adapter.dropout=0.1", "speed.gradient_checkpointing=full"]
    without, asked = runs.start("without", *words), runs.start("asked", *words, *suite)
    assert curve(without) == curve(asked)
    assert weights(without) == weights(asked)
    evaluations = [line for line in lines(asked) if "eval" in line]
    assert [line["step"] for line in evaluations] == [2, 4]
    for line in evaluations:
        (results,) = (asked.eval / f"training/step-{line['step']}").glob("few-*")
        scores = json.loads((results / "scores.json").read_text())
        assert line["suites"] == {"few": {"exact_match": scores["metrics"]["exact_match"]["value"]}}
        answers = [json.loads(one) for one in (results / "answers.jsonl").read_text().splitlines()]
        assert len(answers) == 3
        assert json.loads((results / "suite.json").read_text())["model"] == {"label": "training", "step": line["step"]}
    assert "few.exact_match" in asked.console.read_text()


@pytest.mark.slow
def test_the_figure_of_trainer_best_decides_and_a_resumed_run_keeps_it(runs, suite, stop_during_step):
    """With the held-out loss as the figure, the first and worst evaluation is the best one."""
    best = ["trainer.best=heldout.loss + 0*few.exact_match", "trainer.patience=2"]
    whole = runs.start("whole", *LENGTH, *suite, *best)
    losses = {line["step"]: line["loss"] for line in lines(whole) if "eval" in line}
    assert losses[2] > losses[4]
    assert [line["best"] for line in lines(whole) if "eval" in line] == [losses[2], losses[4]]
    exported = load_file(whole.adapter / "adapter_model.safetensors")
    saved = load_file(whole.checkpoints / "step-2/adapter_model.safetensors")
    assert all(exported[name].equal(saved[name]) for name in saved)
    assert f"best      step 2 (heldout.loss + 0*few.exact_match = {losses[2]:.4f})" in whole.console.read_text()
    stop_during_step(3)
    with pytest.raises(SystemExit):
        runs.start("stopped", *LENGTH, *suite, *best)
    resumed = runs.resume("stopped")
    assert weights(resumed) == weights(whole)
    newest = checkpoint_dir.list_checkpoints(resumed.checkpoints)[-1]
    progress = json.loads((newest / "state.json").read_text())["progress"]
    assert (progress["best_step"], progress["best_score"], progress["without_improvement"]) == (2, losses[2], 1)


@pytest.mark.slow
def test_without_held_out_rows_suites_are_evaluated_and_decide(runs, suite):
    run = runs.start("r", *LENGTH, *suite, "data.val_fraction=0", "trainer.best=few.exact_match", "trainer.patience=1")
    evaluations = [line for line in lines(run) if "eval" in line]
    assert "loss" not in evaluations[0]
    assert evaluations[0]["best"] == evaluations[0]["suites"]["few"]["exact_match"]
    assert "eval      step 2: few.exact_match " in run.console.read_text()


def test_another_figure_on_resuming_forgets_the_best_so_far(capsys):
    from sft_cli.train.checkpoints.checkpoint import TrainProgress

    progress = TrainProgress(step=5, best_step=3, best_loss=1.0, without_improvement=2)
    assert progress.ranked_by("") is progress
    assert progress.ranked_by("digest") == TrainProgress(step=5, best_by="digest")
    assert "do not count" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["trainer.eval_suites=[fwe]"], "names 'fwe', which is not in eval.suites\n  fix: did you mean few?"),
        (["trainer.eval_suites=[length]"], "fix: add eval=[heldout,length]"),
        (["trainer.eval_suites=[few,few]"], "names few twice"),
        (["trainer.eval_suites=[heldout]"], "always evaluated"),
        (["eval.suites.few.scorers=[none]"], "only a judge can score\n  fix: remove it, and judge"),
        (["eval.suites.few.path=missing.jsonl"], "missing.jsonl"),
        (["trainer.eval_suites=[]"], "trainer.eval_suite_items would have no effect"),
        (["trainer.best=few.exact_mtach"], "few.exact_mtach is not measured\n  fix: did you mean few.exact_match?"),
        (["trainer.best=fwe.exact_match"], "did you mean few.exact_match?"),
        (["trainer.best=heldout.los"], "did you mean heldout.loss?"),
        (["trainer.best=few.exact_match/2"], "'/2' is neither"),
        (["trainer.best=2*3"], "names no figure"),
        (["trainer.best=heldout.loss", "data.val_fraction=0"], "but no rows are held out"),
    ],
)
def test_mistakes_are_refused_before_training(runs, suite, words, problem):
    with pytest.raises(SftError) as error:
        runs.start("r", *suite, *words)
    assert problem in str(error.value)
    assert not (runs.directory / "r").exists()
