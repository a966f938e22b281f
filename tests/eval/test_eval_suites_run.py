"""`sft eval RUN eval=SUITES` on a real run directory of a tiny model that memorized five rows."""

import json
import shutil
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.cli.eval import BEYOND_LIMITS
from sft_cli.errors import SftError
from sft_cli.eval import suite_session

FILES = ("answers.jsonl", "verdicts.jsonl", "scores.json", "suite.json")


@pytest.fixture
def folder(tmp_path):
    """Write options of suites, and the working directory that has them."""
    options = tmp_path / "options" / "eval"
    options.mkdir(parents=True)
    capitals = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana", "Italy": "Madrid"}
    rows = [{"name": name, "city": city, "others": ["Paris", "Lima", "Bonn"]} for name, city in capitals.items()]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(rows[n] | {"gold": n // 2}) + "\n" for n in (0, 2)))
    common = 'prompt: "What is the capital of {{ name }}?"'
    (options / "cities.yaml").write_text(
        f'suites:\n  cities:\n    file: items.jsonl\n    {common}\n    target: "{{{{ city }}}}"\n'
        "    max_new_tokens: 12\n"
        "    tags: {part: \"{{ name[0] in 'FI' }}\"}\n"
    )
    (options / "pick.yaml").write_text(
        f'suites:\n  pick:\n    kind: choices\n    file: choices.jsonl\n    {common}\n    choices: "{{{{ others }}}}"\n'
        '    gold: "{{ gold }}"\n    compat: lm_eval\n'
    )
    return tmp_path


def evaluate(run: Path, folder: Path, *words: str) -> None:
    data = [f"eval.data_dir={folder}"]
    execute(["eval", str(run), "-d", str(folder / "options"), *data, *words])


def results(run: Path, suite: str, label: str = "tuned") -> Path:
    found = [file.parent for file in run.glob(f"eval/{suite}-*/suite.json")
             if json.loads(file.read_text())["model"]["label"] == label]  # fmt: skip
    assert len(found) == 1
    return found[0]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def contents(directory: Path) -> dict[str, str]:
    return {name: (directory / name).read_text() for name in FILES}


def test_suites_write_answers_verdicts_and_scores(run_of, folder, capsys):
    run = run_of("lora")
    evaluate(run, folder, "eval=[heldout,cities,pick]", "--compare", "base")
    assert (run / "eval" / "heldout.json").is_file()
    cities = results(run, "cities")
    answers, verdicts = lines(cities / "answers.jsonl"), lines(cities / "verdicts.jsonl")
    assert [answer["answer"] for answer in answers] == ["Paris", "Tokyo", "Lima", "Havana", "Rome"]
    assert all(answer["stopped"] for answer in answers)
    assert answers[0]["prompt"].endswith("### Instruction:\nWhat is the capital of France?\n\n### Response:\n")
    assert [verdict["scores"]["exact_match"] for verdict in verdicts] == [1, 1, 1, 1, 0]
    assert [verdict["id"] for verdict in verdicts] == [answer["id"] for answer in answers]
    assert verdicts[4]["reason"]
    scores = json.loads((cities / "scores.json").read_text())
    figure = scores["metrics"]["exact_match"]
    assert (figure["value"], figure["n"], figure["clusters"]) == (0.8, 5, 5)
    assert figure["low"] < 0.8 < figure["high"]
    assert scores["by_tag"]["part"]["True"]["exact_match"]["value"] == 0.5
    assert scores["counts"] == {"items": 5, "answered": 5, "answers": 5, "stopped": 5, "empty": 0,
                                "tokens": sum(answer["num_tokens"] for answer in answers)}  # fmt: skip
    definition = json.loads((cities / "suite.json").read_text())
    assert definition["definition"]["target"] == "{{ city }}"
    assert set(definition) >= {"suite", "digest", "data", "model", "settings", "sft_cli", "origin"}
    base = json.loads((results(run, "cities", "base") / "scores.json").read_text())
    assert base["metrics"]["exact_match"]["value"] == 0
    picked = json.loads((results(run, "pick") / "scores.json").read_text())["metrics"]
    assert {name: figure["value"] for name, figure in picked.items()} == dict.fromkeys(
        ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm"), 1.0
    )
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["cities"], ["pick"])]
    assert rows[0][:4] == ["cities", "exact_match", "5", "0"]
    assert {line.split()[1] for line in out.splitlines() if line.split()[:1] == ["heldout"]} == {
        "loss", "perplexity", "exact_match", "stopped_share"
    }  # fmt: skip
    assert {row[1] for row in rows} == {"exact_match", "acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm"}
    assert "as lm-evaluation-harness does" in out


def test_suites_alone_evaluate_no_held_out_rows(run_of, folder):
    run = run_of("lora")
    evaluate(run, folder, "eval=cities", "eval.limit=1")
    assert {path.name.partition("-")[0] for path in (run / "eval").iterdir()} == {"cities", "report.html"}


def test_an_interrupted_evaluation_goes_on_to_the_same_files(run_of, folder, monkeypatch):
    run = run_of("lora")
    words = ("eval=cities", "eval.suites.cities.samples=2", "eval.suites.cities.temperature=1.2")
    evaluate(run, folder, *words)
    directory = results(run, "cities")
    whole = contents(directory)
    assert len(whole["answers.jsonl"].splitlines()) == 10
    # An interruption leaves some lines in the order of their batches, and half of one.
    kept = whole["answers.jsonl"].splitlines(keepends=True)
    (directory / "answers.jsonl").write_text(kept[7] + kept[2] + kept[4][:30])
    for name in FILES[1:]:
        (directory / name).unlink()
    asked = []
    original = suite_session.run_suite

    def counting(answer, suite, found, limits, shown):
        asked.append(len(found.read_answers()))
        return original(answer, suite, found, limits, shown)

    monkeypatch.setattr(suite_session, "run_suite", counting)
    evaluate(run, folder, *words)
    assert asked == [2]
    assert contents(directory) == whole


def test_answers_are_kept_and_other_settings_have_a_directory_of_their_own(run_of, folder):
    run = run_of("lora")
    evaluate(run, folder, "eval=cities")
    directory = results(run, "cities")
    before = (directory / "answers.jsonl").read_text()
    marked = before.replace('"Rome"', '"Madrid"')
    (directory / "answers.jsonl").write_text(marked)
    evaluate(run, folder, "eval=cities")
    assert (directory / "answers.jsonl").read_text() == marked
    evaluate(run, folder, "eval=cities", "eval.suites.cities.max_new_tokens=3")
    assert len(list(run.glob("eval/cities-*"))) == 2


def test_rescoring_equals_scoring(run_of, folder, monkeypatch):
    run = run_of("lora")
    evaluate(run, folder, "eval=[cities,pick]")
    directories = [results(run, name) for name in ("cities", "pick")]
    before = [contents(directory) for directory in directories]
    for directory in directories:
        (directory / "verdicts.jsonl").unlink()
        (directory / "scores.json").unlink()
    monkeypatch.setattr("sft_cli.eval.session.load_evaluated", None)  # the model is not needed
    execute(["eval", str(run), "--rescore"])
    assert [contents(directory) for directory in directories] == before
    (folder / "items.jsonl").write_text('{"name": "Chad", "city": "Bonn"}\n')
    with pytest.raises(SftError, match="are not those that were answered"):
        execute(["eval", str(run), "--rescore"])


def test_results_that_were_stored_before_keys_were_added_are_found_scored_and_compared(run_of, folder, monkeypatch):
    run = run_of("lora")
    other = Path(shutil.copytree(run, folder / "other"))
    evaluate(other, folder, "eval=cities")
    evaluate(run, folder, "eval=cities")
    directory = results(run, "cities")
    whole = contents(directory)
    record = json.loads(whole["suite.json"])
    for group in (record["settings"], record["definition"]):
        for key in ("variants", "second_prompt"):
            del group[key]
        del group["shots"]["answer"]
    (directory / "suite.json").write_text(json.dumps(record))
    old = directory.rename(directory.with_name("cities-00000000"))
    (old / "scores.json").unlink()
    execute(["eval", str(run), "--rescore"])
    assert (old / "scores.json").read_text() == whole["scores.json"]
    execute(["compare", str(run), str(other)])
    asked = []
    monkeypatch.setattr("sft_cli.eval.engine.local.answer_batches", lambda *args, **more: asked.append(args) or [])
    evaluate(run, folder, "eval=cities")
    assert asked == []
    assert results(run, "cities") == old
    assert contents(old) == whole


def test_rescoring_without_answers_names_the_command(run_of):
    with pytest.raises(SftError, match="there are no answers"):
        execute(["eval", str(run_of("lora")), "--rescore"])


def test_a_limit_stops_and_the_same_command_goes_on(run_of, folder, capsys):
    run = run_of("lora")
    words = ("eval=cities", "eval.batch_size=2")
    evaluate(run, folder, *words, "eval.max_tokens=1")
    directory = results(run, "cities")
    scores = json.loads((directory / "scores.json").read_text())
    assert (scores["counts"]["answered"], scores["counts"]["items"]) == (2, 5)
    assert "eval.max_tokens=1 is reached, 3 items not answered" in capsys.readouterr().out
    evaluate(run, folder, *words)
    assert json.loads((directory / "scores.json").read_text())["counts"]["answered"] == 5


def test_questions_of_a_file_are_answered_and_scored_by_their_columns(run_of, tmp_path, capsys):
    run = run_of("lora")
    prompt = "What is the capital of Peru?"
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n")
    execute(["eval", str(run), "--questions", str(tmp_path / "mine.jsonl")])
    out = capsys.readouterr().out
    assert f"prompt    {prompt}" in out
    assert "answer    Lima" in out
    (tmp_path / "known.jsonl").write_text(json.dumps({"prompt": prompt, "answer": "Lima"}) + "\n")
    execute(["eval", str(run), "--questions", str(tmp_path / "known.jsonl")])
    scores = json.loads((results(run, "known") / "scores.json").read_text())
    assert scores["metrics"]["exact_match"]["value"] == 1


def test_mistakes_end_before_the_model_is_loaded(run_of, folder, monkeypatch):
    run = run_of("lora")
    monkeypatch.setattr("sft_cli.eval.session.load_evaluated", None)
    with pytest.raises(SftError, match="unknown metric 'exact_mach'"):
        evaluate(run, folder, "eval=cities", "eval.suites.cities.scorers=[exact_mach]")
    with pytest.raises(SftError, match="did you mean eval=cities"):
        evaluate(run, folder, "eval=citie")
    with pytest.raises(SftError, match="there is no file"):
        evaluate(run, folder, "eval=cities", "eval.suites.cities.file=none.jsonl")
    with pytest.raises(SftError, match="there is no such file"):
        execute(["eval", str(run), "--questions", str(folder / "none.jsonl")])


def test_a_second_turn_follows_the_models_own_answer_and_goes_on_after_an_interruption(run_of, folder, capsys):
    run = run_of("lora")
    words = ("eval=cities", "eval.suites.cities.second_prompt=Are you sure?", "eval.suites.cities.samples=2",
             "eval.suites.cities.temperature=1.2", "eval.limit=2",
             "eval.suites.cities.variants.kinds=[upper]")  # fmt: skip
    evaluate(run, folder, *words)
    directory = results(run, "cities")
    whole = contents(directory)
    answers = lines(directory / "answers.jsonl")
    ids = [answer["id"] for answer in answers[::2]]
    first, second = ids[0], ids[1]
    assert ids[:4] == [first, f"{first}.2", f"{first}:upper", f"{first}:upper.2"]
    assert second == f"{first}.2"
    own = {(answer["id"], answer["sample"]): answer for answer in answers}
    for sample in (0, 1):
        prompt = own[second, sample]["prompt"]
        assert own[first, sample]["answer"] in prompt
        assert prompt.index("capital of France?") < prompt.rindex("Are you sure?")
    assert own[f"{first}:upper", 0]["prompt"].count("CAPITAL OF FRANCE?") == 1
    assert "drop" in json.loads((directory / "scores.json").read_text())["variants"]["upper"]["exact_match"]
    assert "drop is the score of the plain questions" in capsys.readouterr().out
    kept = whole["answers.jsonl"].splitlines(keepends=True)
    (directory / "answers.jsonl").write_text(kept[1] + kept[2])  # a first turn, and a second one without it
    evaluate(run, folder, *words)
    assert contents(directory) == whole
    (directory / "scores.json").unlink()
    execute(["eval", str(run), "--rescore", f"eval.data_dir={folder}"])
    assert contents(directory) == whole


def test_behaviour_beyond_a_limit_ends_with_exit_code_3(run_of, folder, capsys):
    run = run_of("lora")
    words = ["eval", str(run), "-d", str(folder / "options"), f"eval.data_dir={folder}", "eval=cities"]
    assert execute([*words, "eval.limits={empty: 0.02, openers: 0, stop_rate: 0.99}"]) == 0
    assert "failed" not in capsys.readouterr().out
    assert execute([*words, "eval.limits.answer_words=0.5", "eval.limits.distinct_1=1.5"]) == BEYOND_LIMITS
    out = capsys.readouterr().out
    assert "failed    answer_words is 1 (limit answer_words: at most 0.5); distinct_1 is 1 (limit" in out
    with pytest.raises(SftError, match="the drift card has no value 'emtpy'") as caught:
        execute([*words, "eval.limits.emtpy=0.02"])
    assert caught.value.fix == "did you mean eval.limits.empty=0.02?"
    assert execute([*words[:-1], "eval=pick", "eval.limits.empty=0"]) == 0
    assert "not measured, so that no limit holds: empty" in capsys.readouterr().out


def test_prompts_longer_than_the_context_are_reported(run_of, folder, capsys):
    run = run_of("lora")
    variants = "eval.suites.cities.variants"
    words = (f"{variants}.kinds=[distractor]", f"{variants}.distractor_words=3000")
    evaluate(run, folder, "eval=cities", "eval.limit=1", *words)
    assert "warning: cities: 1 answer cut at the end of the model's context" in capsys.readouterr().out
    assert json.loads((results(run, "cities") / "scores.json").read_text())["counts"]["cut"] == 1
