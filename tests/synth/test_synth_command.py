"""``sft synth`` as it is typed: with the embedded model, offline; its rows are prepared; mistakes have a fix."""

import json

import pytest

from sft_cli.cli.program import execute
from sft_cli.errors import SftError

MODEL = ["synth.teacher.model=builtin:quickstart/model", "template=alpaca", "trainer.device=cpu"]
PROMPTS = [
    "synth.prompts.path=builtin:quickstart/train.jsonl",
    "synth.prompts.prompt={{ instruction }} {{ input }}",
    "synth.prompts.limit=4",
    "synth.teacher.max_new_tokens=8",
]


def test_a_local_model_makes_rows_that_are_prepared(tmp_path, capsys):
    out = tmp_path / "made"
    typed = ["synth", "synth=reject", *MODEL, *PROMPTS, "synth.samples=2", "synth.prompts.target={{ output }}"]
    # Any answer passes: the base model has not learned to answer.
    typed += ["synth.check.scorers=[regex]", "synth.check.options={pattern: '(?s).*'}", "--out", str(out)]
    execute([*typed, "--preview", "2"])
    assert "whole     about 8 requests" in capsys.readouterr().out
    assert not (out / "rows.jsonl").exists()
    paid = len((out / "journal.jsonl").read_text().splitlines())
    assert paid == 4
    execute(typed)
    assert "4 of them from the journal" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["requests"] == 8
    assert sum(manifest["counts"].values()) == 8
    assert "licence" in manifest["terms"]


def test_rows_are_read_by_prepare(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    source = {"generator": "respond", "teacher": "t", "prompts": {}, "parents": ["1"], "requests": ["k"], "cost": 0.0}
    turns = [{"role": "user", "content": "Say a"}, {"role": "assistant", "content": "a"}]
    rows.write_text(json.dumps({"messages": turns, "synth": source}) + "\n")
    execute(["prepare", str(rows), "model=builtin:quickstart/model", "template=alpaca", f"prepared_dir={tmp_path}/p",
             "data.val_fraction=0"])  # fmt: skip
    assert "not read  local: synth" in capsys.readouterr().out
    assert (tmp_path / "p/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "where", "fix"),
    [
        ([], "synth.teacher.model", "add synth.teacher.model=RUN"),
        (["synth.teacher.engine=openai"], "synth.teacher.endpoint.model", "add synth.teacher.endpoint.model=NAME"),
        (["trainer.lr=1"], "trainer.lr", "remove it"),
        (["synth.samples=3"], "synth.samples", "set synth.generator=reject, or remove synth.samples"),
        (["synth.max_cost=1"], "synth.max_cost", "price_input=PRICE"),
        (["synth.systems=[explian]"], "synth.systems", "did you mean explain?"),
        (["synth.templates.explian=a.jinja"], "synth.templates", "did you mean explain?"),
        (["synth.teacher.endpoint.url=http://a"], "synth.teacher.endpoint.url", "set synth.teacher.engine=openai"),
        (["synth=reject", "synth.teacher.temperature=0"], "synth.samples", "set synth.teacher.temperature=0.8"),
        (["synth=reject", "synth.check.scorers=[]"], "synth.check.scorers", "[exact_match]"),
        (MODEL, "synth.prompts.path", "add synth.prompts.path=FILE"),
    ],
)
def test_a_mistake_is_refused_with_a_fix(tmp_path, words, where, fix):
    with pytest.raises(SftError) as caught:
        execute(["synth", *words, "--out", str(tmp_path / "out")])
    assert where in str(caught.value)
    assert fix in caught.value.fix


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SftError, match="sft synth did not write it"):
        execute(["synth", *MODEL, *PROMPTS, "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
