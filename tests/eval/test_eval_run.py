"""`sft eval` on real run directories of a tiny model that memorized five rows."""

import json
import shutil
from pathlib import Path

import pytest

from sft_cli.cli import execute


@pytest.fixture
def other_rows(tmp_path):
    """Write two rows: the runs have memorized one, and answer the other differently."""
    file = tmp_path / "other.jsonl"
    rows = [("Peru", "Lima"), ("Cuba", "Lima")]
    lines = [json.dumps({"instruction": f"What is the capital of {name}?", "output": answer}) for name, answer in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


def evaluated(run: Path, *words: str) -> dict:
    """Run an evaluation and return its report, the newest file."""
    execute(["eval", str(run), *words])
    return json.loads(max((run / "eval").glob("*.json"), key=lambda file: file.stat().st_mtime_ns).read_text())


@pytest.mark.parametrize("kind", ["lora", "nf4", "full"])
def test_a_run_is_compared_with_its_base(runs_dir, run_of, kind, capsys):
    run = run_of(kind)
    report = evaluated(run, "--compare", "base")
    assert (report["suite"], report["version"]) == ("heldout", 1)
    assert report["model"] == str(run / ("model" if kind == "full" else "adapter"))
    assert report["data"]["split"] == "validation"
    tuned, base = report["metrics"], report["base"]
    assert (tuned["exact_match"], tuned["stopped_share"], tuned["items"], tuned["examples"]) == (1, 1, 5, 5)
    assert tuned["loss"] < 0.05 < 5 < base["loss"]
    assert base["exact_match"] == 0
    for label, metrics in (("tuned", tuned), ("base", base)):
        figure = json.loads((run / f"eval/heldout-{label}/scores.json").read_text())["metrics"]["loss"]
        assert (figure["value"], figure["n"]) == (metrics["loss"], 5)
        assert figure["low"] < figure["value"] < figure["high"]
    own = {key: value for key, value in tuned.items() if key not in ("sources", "groups")}
    assert own == tuned["sources"]["capitals"]
    assert [item["answer"] for item in report["items"]] == ["Paris", "Tokyo", "Lima", "Havana", "Rome"]
    first = report["items"][0]
    assert set(first) == {
        *("where", "source", "prompt", "expected", "answer", "correct", "stopped", "truncated"),
        *("base_answer", "base_correct"),
    }
    assert first["where"].endswith("rows.jsonl:1")
    assert first["prompt"].endswith("### Instruction:\nWhat is the capital of France?\n\n### Response:\n")
    assert (first["expected"], first["correct"], first["stopped"], first["base_correct"]) == (
        "Paris",
        True,
        True,
        False,
    )
    names = sorted(path.name for path in (run / "eval").iterdir())
    assert names == ["heldout-base", "heldout-tuned", "heldout.json", "report.html"]
    out = capsys.readouterr().out
    assert f"rows      5 held-out examples of {runs_dir / f'prepared-{kind}'}\n" in out
    assert f"report    {run / 'eval' / 'heldout.json'}\n" in out
    assert " stop_rate " in out.partition(" behaviour ")[2]
    assert "  expected  Paris\n" in out
    assert "  tuned     Paris\n" in out
    rows = [line.split() for line in out.splitlines() if line.strip().startswith("capitals")]
    assert [(row[:3], row[-2:]) for row in rows] == [
        (["capitals", "base", "5"], ["0", "0"]),
        (["capitals", "tuned", "5"], ["100", "100"]),
    ]


def test_evaluating_twice_gives_the_same_report(run_of):
    run = run_of("lora")
    assert evaluated(run) == evaluated(run, "eval.batch_size=1", "speed.tokens_per_micro_batch=512")


def test_options_of_eval_are_read(run_of):
    run = run_of("lora")
    report = evaluated(run, "eval.max_rows=2", "eval.max_new_tokens=1")
    assert "base" not in report
    assert (report["metrics"]["examples"], report["metrics"]["items"], len(report["items"])) == (5, 2, 2)
    assert report["metrics"]["stopped_share"] == 0
    assert "base_answer" not in report["items"][0]
    without_answers = evaluated(run, "eval.generate=false")
    assert (
        without_answers["items"],
        without_answers["metrics"]["exact_match"],
        without_answers["metrics"]["stopped_share"],
    ) == ([], None, None)


def test_a_half_precision_evaluation_gives_the_same_answers(run_of):
    report = evaluated(run_of("lora"), "trainer.dtype=bfloat16")
    assert report["metrics"]["exact_match"] == 1
    assert report["metrics"]["loss"] != evaluated(run_of("full"))["metrics"]["loss"]


def test_other_data_is_prepared_with_the_runs_template(run_of, other_rows, capsys):
    report = evaluated(run_of("lora"), "data=local", f"data.mix.local.path={other_rows}")
    assert report["data"]["split"] == "train"
    assert [(i["expected"], i["answer"], i["correct"]) for i in report["items"]] == [
        ("Lima", "Lima", True),
        ("Lima", "Havana", False),
    ]
    assert report["metrics"]["sources"]["local"]["exact_match"] == 0.5
    assert report["items"][0]["prompt"].startswith("Below is an instruction")
    assert f"rows      2 examples of {other_rows} (" in capsys.readouterr().out


def test_held_out_rows_of_other_data_come_first(run_of, other_rows, runs_dir):
    report = evaluated(
        run_of("lora"),
        "data=local",
        f"data.mix.local.path={runs_dir / 'rows.jsonl'}",
        f"data.mix.local.validation_path={other_rows}",
    )
    assert (report["data"]["split"], report["metrics"]["examples"]) == ("validation", 2)


def test_rows_that_were_trained_on_give_a_warning(run_of, runs_dir, capsys):
    rows = runs_dir / "rows.jsonl"
    evaluated(run_of("lora"), "data=local", f"data.mix.local.path={rows}")
    sentence = f"warning: the run was trained on 5 of the 5 examples (the first: {rows.name}:1): their scores"
    out = capsys.readouterr().out
    assert f"{sentence} measure memorization\n" in out
    assert "held out" not in out
    assert "training tokens" not in out
    assert "evaluated tokens" in out


def test_rows_whose_prompt_was_trained_are_counted_separately(run_of, other_rows, capsys):
    report = evaluated(run_of("lora"), f"data={other_rows}")
    out = capsys.readouterr().out
    assert "warning: the run was trained on 1 of the 2 examples (the first: other.jsonl:1): their scores" in out
    assert "warning: the prompt of 1 of the 2 examples was trained with another answer (other.jsonl:2)\n" in out
    assert (report["data"]["trained_on"], report["data"]["prompt_trained_on"]) == (1, 1)


def test_rows_that_were_not_trained_on_give_no_warning(run_of, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"instruction": "What is the capital of Mali?", "output": "Bamako"}\n')
    report = evaluated(run_of("lora"), f"data={tmp_path / 'new.jsonl'}")
    assert "warning" not in capsys.readouterr().out
    assert (report["data"]["trained_on"], report["data"]["prompt_trained_on"]) == (0, 0)


def test_several_sources_are_scored_separately(run_of, other_rows, runs_dir, capsys):
    report = evaluated(
        run_of("lora"),
        "data=local",
        f"data.mix.known.path={runs_dir / 'rows.jsonl'}",
        f"data.mix.other.path={other_rows}",
    )
    sources = report["metrics"]["sources"]
    assert {name: one["exact_match"] for name, one in sources.items()} == {"known": 1, "other": 0.5}
    assert report["metrics"]["exact_match"] == pytest.approx(6 / 7)
    scores = capsys.readouterr().out.partition("exact match %")[2].partition("\nreport ")[0]
    assert [line.split()[0] for line in scores.splitlines()[2:] if line.split()] == ["known", "other", "all"]


def test_documents_have_a_loss_and_no_answers(run_of, tmp_path, capsys):
    (tmp_path / "texts.jsonl").write_text('{"text": "Lima is in Peru."}\n{"text": "Rome is in Italy."}\n')
    report = evaluated(run_of("lora"), "data=local", f"data.mix.local.path={tmp_path / 'texts.jsonl'}")
    assert report["items"] == []
    assert report["metrics"]["exact_match"] is None
    assert report["metrics"]["loss"] > 0
    sentence = "answers   none: every example is trained as a whole, without a prompt; loss and perplexity only\n"
    assert sentence in capsys.readouterr().out


def test_missing_data_is_prepared_again(run_of, tmp_path, capsys):
    run = run_of("lora")
    before = evaluated(run)
    known = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**known, "prepared_dir": str(tmp_path / "absent")}))
    after = evaluated(run)
    assert (
        f"data      {tmp_path / 'absent'} no longer has the run's data: preparing it again\n" in capsys.readouterr().out
    )
    assert after["data"].pop("prepared_dir") != before["data"].pop("prepared_dir")
    assert after == before


def test_a_prepared_directory_with_other_data_is_not_used(run_of, tmp_path, runs_dir):
    run = run_of("lora")
    reused = Path(shutil.copytree(runs_dir / "prepared-lora", tmp_path / "reused"))
    manifest = json.loads((reused / "manifest.json").read_text())
    (reused / "manifest.json").write_text(json.dumps({**manifest, "content": "another"}))
    known = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**known, "prepared_dir": str(reused)}))
    report = evaluated(run)
    assert report["data"]["prepared_dir"] != str(reused)
    assert report["data"]["fingerprint"] == known["fingerprint"]
    assert json.loads((reused / "manifest.json").read_text())["content"] == "another"


def test_nonfinite_numbers_become_null(run_of):
    from safetensors.torch import load_file, save_file

    run = run_of("full")
    weights = load_file(run / "model" / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, run / "model" / "model.safetensors", metadata={"format": "pt"})
    report = evaluated(run, "eval.generate=false")
    assert (report["metrics"]["loss"], report["metrics"]["perplexity"]) == (None, None)


def test_an_evaluation_keeps_the_base_scores_of_an_earlier_report(run_of, other_rows):
    run = run_of("lora")
    kept = evaluated(run, "--compare", "base")

    quiet = evaluated(run, "eval.generate=false")
    other = evaluated(run, f"data={other_rows}")
    again = evaluated(run)

    names = {file.stem for file in (run / "eval").glob("*.json")}
    assert names == {"heldout", quiet["name"], other["name"]}
    assert quiet["name"].startswith("heldout-")
    assert other["name"] == f"local-{other['data']['fingerprint'][:8]}"
    assert (kept["suite"], quiet["suite"], other["suite"]) == ("heldout", "heldout", "other rows")
    assert again == kept  # exact match and the scores of the base model are kept


def test_every_row_of_a_named_file_is_evaluated(run_of, other_rows):
    report = evaluated(run_of("lora"), f"data={other_rows}")
    assert (report["data"]["split"], report["metrics"]["examples"]) == ("train", 2)
