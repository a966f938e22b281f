"""Parse every command of the README and the pages; run the cheap ones, and the README's five."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from sft_cli.cli import app, execute
from sft_cli.cli.usage import refuse
from sft_cli.config.compose import compose, dump_config
from sft_cli.config.overrides.sweep import expand_sweep
from sft_cli.config.schema.config import Config
from tests.docs_pages import ALL_COMMANDS, PAGES, README, ROOT, command_lines, sft_commands

COMMANDS = typer.main.get_command(app).commands
"""Typer's commands by name."""
COMPOSED = ("train", "prepare", "check", "submit", "show")
PRINTING = ("show", "recipes", "formats", "docs")
"""Commands that only print."""
OF_OTHERS = {"--nproc-per-node", "--inputs", "--logdir", "--container-image", "--install-completion",
             "--dry", "--list", "--only", "--model", "--dataset", "--use"}  # fmt: skip
"""Options of torchrun, scripts/fuzz, TensorBoard, srun, scripts/gpu_acceptance.py, TRL; the one that Typer adds."""
FIVE = sft_commands(README)[1:]
"""The README's five commands on rows.jsonl."""


def write_rows(folder: Path) -> None:
    """Write rows.jsonl: 400 questions and answers that the embedded model can learn."""
    rows = (ROOT / "sft_cli" / "quickstart" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    texts = [json.loads(row) for row in rows]
    asked = [f"{row['instruction']}\n\n{row['input']}".strip() for row in texts]
    pairs = [{"prompt": prompt, "completion": row["output"]} for prompt, row in zip(asked, texts, strict=True)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs), encoding="utf-8")


def sft(*words: str, cwd: Path, code: int = 0) -> str:
    """Run ``sft`` there as a user does; its output."""
    environment = {**os.environ, "SFT_HOME": str(cwd), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "sft_cli", *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def parsed(words: list[str]) -> dict:
    """Parse a command line as Typer does, without running it; return its arguments and options by name."""
    refuse(typer.main.get_command(app), words)
    return COMMANDS[words[0]].make_context(words[0], words[1:]).params


def test_the_two_commands_are_there():
    lines = command_lines(README)
    assert "pip install -e . && sft train recipe=quickstart" in lines
    assert "pip install -e '.[dev]' && pytest -n 2" in lines


def test_the_table_of_commands_names_all_of_them():
    table = re.findall(r"^\| `sft ([a-z]+)", README, flags=re.MULTILINE)
    assert sorted(table) == sorted(COMMANDS)


def test_every_sft_command_that_is_named_exists():
    named = {
        (name, word)
        for name, text in PAGES.items()
        for code in re.findall(r"`sft ([^`]*)`", text)
        if (word := code.split()[0]).islower() and word.isalpha()
    }
    assert [(name, word) for name, word in named if word not in COMMANDS] == []
    assert len(named) > 30


def test_every_option_that_is_named_exists():
    spelled = {spelling for command in COMMANDS.values() for one in command.params for spelling in one.opts}
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", "\n".join(PAGES.values()))) - OF_OTHERS
    assert sorted(named - spelled) == []
    assert len(named) > 15


def test_every_extra_and_script_that_is_named_exists():
    text = "\n".join(PAGES.values())
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"'\.\[(\w+)\]'", text))
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", project, flags=re.MULTILINE)] == []
    scripts = set(re.findall(r"scripts/[\w/]+\.(?:py|sh|md)", text))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    assert len(extras) > 3
    assert len(scripts) > 4


@pytest.mark.parametrize(
    ("page", "words"), ALL_COMMANDS, ids=lambda one: " ".join(one) if isinstance(one, list) else one
)
def test_a_command_is_understood(page, words, tmp_path, monkeypatch):
    """Its options parse, and its keys compose."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "none")
    write_rows(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.yaml").write_text(dump_config(composed("recipe=quickstart")))
    found = parsed(words)
    keys = found.get("overrides") or []
    if words[0] == "sweep" and keys:
        assert len(expand_sweep(keys).members) > 1
    elif words[0] in COMPOSED and not found.get("resume") and not found.get("keys") and keys != ["RUN"]:
        composed(*keys, *(["launcher=slurm"] if words[0] == "submit" else []))


@cache
def composed(*keys: str) -> Config:
    """Return the config of some keys, cached since many pages use the same."""
    return compose(keys)


@pytest.mark.parametrize(
    "words",
    [words for _, words in ALL_COMMANDS if words[0] in PRINTING and "RUN" not in words],
    ids=lambda words: " ".join(words),
)
def test_a_command_that_prints_prints(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert execute(words) == 0
    assert len(capsys.readouterr().out) > 50


def test_first_two_readme_commands_print_the_shown_output(tmp_path):
    write_rows(tmp_path)
    prepared = sft(*FIVE[0], cwd=tmp_path)
    assert "local    prompt_completion    400    400        400   16,890            1,321" in prepared
    assert "trained   1,296 of 16,554 training tokens carry loss (8%)\nheld out  8 examples" in prepared
    shown = sft(*FIVE[1], cwd=tmp_path)
    assert shown_lines(1) <= set(shown.splitlines())


def shown_lines(number: int) -> set[str]:
    """Return the lines that the README shows below one of the five commands."""
    blocks = re.findall(r"^```text\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return {line.rstrip() for line in blocks[number].splitlines()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run the README's five commands in a directory, and return it with their output."""
    folder = tmp_path_factory.mktemp("five")
    write_rows(folder)
    return folder, [sft(*words, cwd=folder) for words in FIVE]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_commands_print_the_shown_output(folder):
    """Numbers of training depend on the machine; what is printed does not."""
    _, (_, _, trained, evaluated, merged) = folder
    for line in shown_lines(2):
        assert re.search(rf"^{re.escape(line.split()[0])} ", trained, flags=re.MULTILINE), line
    assert "plan      294 steps: 3 epochs of 392 examples, 4 a step" in trained
    rows = {line.split()[1]: line.split() for line in evaluated.splitlines() if line.startswith(" local ")}
    assert float(rows["base"][5]) == 0.0
    assert float(rows["tuned"][5]) >= 75
    assert re.search(r"adapter and merged .* 100.00%", merged)
    assert (folder[0] / "merged" / "model.safetensors").is_file()


OF_RUNS = [
    words
    for _, words in ALL_COMMANDS
    if words[0] in ("eval", "chat", "inspect", "runs", "show", "train", "merge", "export", "verify")
]
OF_RUNS = [words for words in OF_RUNS if {"RUN", "DIR", "runs"} & {*words}]
OF_RUNS = [words for words in OF_RUNS if not {"dequantized", "launcher.nproc=2", "--where"} & {*words}]
"""Commands of the pages on a run or prepared data, which one run can serve."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", OF_RUNS, ids=" ".join)
def test_a_command_on_a_run_runs(folder, words, tmp_path):
    place, _ = folder
    (place / "more.jsonl").write_text((place / "rows.jsonl").read_text(encoding="utf-8")[:2000].rpartition("\n")[0])
    step = max(int(one.name.removeprefix("step-")) for one in (place / "run" / "checkpoints").iterdir())
    put = {
        "RUN": "run",
        "DIR": "prepared",
        "50": str(step),
        "merged": str(tmp_path / "merged"),
        "refund|invoice": "animal",
    }
    more = ["."] if words[0] == "runs" else []  # the run is not where runs are written by default
    assert sft(*(put.get(word, word) for word in words), *more, cwd=place)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_the_quickstart_from_training_to_a_merged_model(tmp_path, quant):
    """Train, evaluate and compare with the base, merge, and let plain transformers answer a held-out question."""
    output = sft("train", "recipe=quickstart", f"quant={quant}", "run_dir=run", cwd=tmp_path)
    assert re.search(r"exact match +\d\.\d% +(9\d|100)\.\d%", output)

    sft("eval", "run", "--compare", "base", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "eval" / "heldout.json").read_text())
    assert report["metrics"]["exact_match"] >= 0.9
    assert report["base"]["exact_match"] < 0.05

    sft("merge", "run", "--out", "merged", cwd=tmp_path)
    right = answered(tmp_path / "merged", [item for item in report["items"] if item["correct"]][:8])
    assert right == 8


def answered(directory: Path, items: list[dict]) -> int:
    """Return the number of prompts that plain transformers answers as the report states."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    right = 0
    for item in items:
        ids = tokenizer(item["prompt"], add_special_tokens=False, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=32)[0, ids["input_ids"].shape[1] :]
        right += tokenizer.decode(out, skip_special_tokens=True) == item["answer"]
    return right
