"""Tasks of lm-evaluation-harness on a run: figures as our own compat figures, generation, and what is refused."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.eval import harness

CHOICES = """task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "What is the capital of {{{{name}}}}?"
doc_to_choice: "{{{{others}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ANSWERS = """task: cities
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is the capital of {{{{name}}}}?"
doc_to_target: "{{{{city}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
ROLLING = """task: texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{city}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture
def tasks(tmp_path):
    """A directory of tasks over local rows."""
    cities = {"France": ("Paris", 0), "Japan": ("Tokyo", 2), "Peru": ("Lima", 1), "Italy": ("Madrid", 2)}
    rows = [{"name": name, "city": city, "gold": gold, "others": ["Paris", "Lima", "Tokyo"]}
            for name, (city, gold) in cities.items()]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    for name, text in {"capitals": CHOICES, "cities": ANSWERS, "texts": ROLLING}.items():
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text.format(file=tmp_path / "rows.jsonl"))
    return tmp_path


def test_a_missing_package_is_one_sentence(run_of, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(SftError, match="lm-evaluation-harness is not installed") as caught:
        execute(["eval", str(run_of("lora")), "eval.lm_eval.tasks=[arc_easy]"])
    assert caught.value.fix == "pip install 'sft-cli[lm-eval]'"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_a_directory(run_of, tasks, monkeypatch, capsys):
    """The figures are those of a suite with compat=lm_eval on the same items; answers are generated as served."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    run = run_of("lora")
    words = ["eval", str(run), f"eval.lm_eval.task_dir={tasks / 'tasks'}"]
    assert execute([*words, "eval.lm_eval.tasks=[capitals,cities]", "--compare", "base"]) == 0
    found = {}
    for file in run.glob("eval/lm_eval-*.json"):
        record = json.loads(file.read_text())
        found[record["task"], record["settings"]["model"]["label"]] = record["metrics"]
    assert len(found) == 4
    options = tasks / "options/eval"
    options.mkdir(parents=True)
    (options / "own.yaml").write_text(
        "suites:\n  own:\n    kind: choices\n    file: rows.jsonl\n    prompt: 'What is the capital of {{ name }}?'\n"
        "    choices: '{{ others }}'\n    gold: '{{ gold }}'\n    compat: lm_eval\n"
    )
    execute(["eval", str(run), "-d", str(tasks / "options"), f"eval.data_dir={tasks}", "eval=own"])
    own = json.loads(next(run.glob("eval/own-*/scores.json")).read_text())["metrics"]
    for metric in ("lm_eval_acc", "lm_eval_acc_norm"):
        assert found["capitals", "tuned"][metric] == own[metric]
    assert found["cities", "tuned"]["lm_eval_exact_match"]["value"] == 0.75
    assert found["cities", "base"]["lm_eval_exact_match"]["value"] == 0
    assert "lm_eval_exact_match" in capsys.readouterr().out
    with pytest.raises(SftError, match="there is no task 'capital' in") as caught:
        execute([*words, "eval.lm_eval.tasks=[capital]"])
    assert caught.value.fix == "did you mean capitals?"
    with pytest.raises(SftError, match="the task texts is of the kind loglikelihood_rolling"):
        execute([*words, "eval.lm_eval.tasks=[texts]"])
