"""`sft eval MODEL` for models that no run belongs to: whole models, adapters, and directories of their results."""

import json
import shutil
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.eval.bare_model import BareModel, find_bare_model
from tests.eval.conftest import QUESTIONS

PROMPT = "What is the capital of {{ name }}?"


@pytest.fixture
def suite(tmp_path):
    """Words that choose a suite of five questions."""
    rows = [{"name": name, "city": city} for name, city in QUESTIONS.items()]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "options" / "eval").mkdir(parents=True)
    (tmp_path / "options" / "eval" / "cities.yaml").write_text(
        f'suites:\n  cities:\n    path: {tmp_path}/items.jsonl\n    prompt: "{PROMPT}"\n    target: "{{{{ city }}}}"\n'
        "    max_new_tokens: 12\n"
    )
    return ["-d", str(tmp_path / "options"), "eval=cities"]


@pytest.fixture
def model_of(runs_dir, tmp_path):
    """Return a function that copies the result of a run: ``lora`` is an adapter, ``full`` a whole model."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(runs_dir / kind / ("model" if kind == "full" else "adapter"), tmp_path / "mine"))

    return copy


def answers(results: Path) -> list[dict]:
    (file,) = results.glob("eval/cities-*/answers.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def refusal(*words: str) -> SftError:
    with pytest.raises(SftError) as caught:
        execute(["eval", *words])
    return caught.value


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_model_answers_as_the_run_it_came_from(kind, run_of, model_of, suite, tmp_path, capsys):
    run, model = run_of(kind), model_of(kind)
    assert execute(["eval", str(run), *suite]) == 0
    assert execute(["eval", str(model), *suite]) == 0
    results = tmp_path / "home" / "evals" / "mine"
    assert answers(results) == answers(run)
    assert [line["answer"] for line in answers(results)] == list(QUESTIONS.values())
    assert json.loads((results / "model.json").read_text())["model"] == str(model)
    capsys.readouterr()
    assert execute(["compare", str(run), str(results)]) == 0
    assert "cities" in capsys.readouterr().out
    written = next(results.glob("eval/cities-*/scores.json"))
    before = written.read_text()
    written.unlink()
    shutil.rmtree(model)
    assert execute(["eval", str(results), "--rescore"]) == 0
    assert written.read_text() == before


def test_an_adapter_is_compared_with_its_base_and_on_rows(model_of, suite, runs_dir, tmp_path):
    model, rows = model_of("lora"), runs_dir / "rows.jsonl"
    out = tmp_path / "out"
    words = [*suite[:2], "eval=[heldout,cities]", f"data={rows}", "--compare", "base", "--out", str(out)]
    assert execute(["eval", str(model), *words]) == 0
    (report,) = out.glob("eval/*.json")
    values = json.loads(report.read_text())
    assert (values["metrics"]["exact_match"], values["base"]["exact_match"]) == (1, 0)
    assert values["metrics"]["loss"] < 0.1 < values["base"]["loss"]
    labels = [json.loads(file.read_text())["model"]["label"] for file in out.glob("eval/cities-*/suite.json")]
    assert sorted(labels) == ["base", "tuned"]


def test_a_model_without_a_template_needs_one_unless_nothing_is_asked_by_it(runs_dir, suite, tmp_path):
    base = runs_dir / "base"
    error = refusal(str(base), *suite)
    assert "no chat template" in error.problem
    assert "template=" in error.fix
    assert not (tmp_path / "home" / "evals").exists()
    assert execute(["eval", str(base), *suite, "template=alpaca"]) == 0
    (line, *_) = answers(tmp_path / "home" / "evals" / "base")
    assert line["prompt"].endswith("### Instruction:\nWhat is the capital of France?\n\n### Response:\n")
    out = tmp_path / "text"
    assert execute(["eval", str(base), *suite, "eval.suites.cities.format=text", "--out", str(out)]) == 0
    assert answers(out)[0]["prompt"] == "What is the capital of France?"


def test_wrong_models_are_refused(model_of, run_of, suite, tmp_path, runs_dir):
    model, run = model_of("lora"), run_of("lora")
    (tmp_path / "empty").mkdir()
    error = refusal(str(tmp_path / "empty"))
    assert error.problem.startswith("the directory is neither a run (config.yaml) nor a model")
    settings = json.loads((model / "adapter_config.json").read_text())
    gone = settings | {"base_model_name_or_path": str(tmp_path / "gone")}
    (model / "adapter_config.json").write_text(json.dumps(gone))
    error = refusal(str(model), *suite)
    assert error.problem == f"the base of the adapter, {tmp_path}/gone, no longer exists"
    assert error.fix == f"name it: sft eval {model} model.path=DIR_OR_HUB_ID"
    assert execute(["eval", str(model), *suite, f"model.path={runs_dir}/base", "eval.limit=1"]) == 0
    assert "a whole model names no base" in refusal(str(runs_dir / "base"), *suite, "--compare", "base").problem
    assert "has no held-out rows" in refusal(str(runs_dir / "base"), "template=alpaca").problem
    assert refusal(str(run), *suite, "--out", str(tmp_path / "x")).fix == "remove --out"
    assert refusal(str(run / "adapter"), *suite).fix == f"sft eval {run}"
    error = refusal(str(runs_dir / "base"), *suite, "template=alpaca", "--out", str(tmp_path / "home/evals/mine"))
    assert error.problem == f"it holds the results of another model, {model}"
    error = refusal(str(runs_dir / "base"), *suite, "template=alpaca", "--out", str(tmp_path / "options"))
    assert error.problem == "it exists, and is no directory of results"


def the_model(typed: str) -> BareModel:
    """Return the model that was typed, which is one."""
    found = find_bare_model(typed, None)
    assert found is not None
    return found


def test_what_counts_as_a_model(run_of, tmp_path, monkeypatch):
    run = run_of("full")
    merged = Path(shutil.copytree(run / "model", run / "merged"))
    assert find_bare_model(str(run), None) is None
    assert find_bare_model(str(run / "model"), None) is None
    assert the_model(str(merged)).path == str(merged)
    monkeypatch.chdir(tmp_path)
    hub = the_model("someone/model")
    assert (hub.path, hub.results.path.name) == ("someone/model", "model")
    (tmp_path / "runs").mkdir()
    for name in ("runs/mistyped", "mistyped", "./a/b", "a/b/c"):
        assert find_bare_model(name, None) is None
    assert the_model("builtin:quickstart/model").path == "builtin:quickstart/model"
