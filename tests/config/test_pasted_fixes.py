"""Fixes work when pasted: each mistake of a long list is made, and every word of its fix is run.

What is typed goes through the real entry point. After pasting, the command must get past the error: not the same one
again, and none about the same key.
"""

import json
import re
import shlex
import shutil
import sys
from typing import NamedTuple

import pytest

from sft_cli import cli
from tests.config.pasted_mistakes import MISTAKES
from tests.config.pasting import Fix, read

# command and context | the mistake
PROSE = {
    "data.stages=[a]": "the names of stages are the reader's",
}
"""Mistakes whose fix has nothing to paste, and why."""


class PrintedError(NamedTuple):
    where: str
    problem: str
    fix: str


def rows() -> list[tuple[list[str], list[str], str]]:
    """Return context, words and name of each mistake."""
    found = []
    for line in MISTAKES.strip().splitlines():
        context, mistake = (part.strip() for part in line.split("|", 1))
        found.append((shlex.split(context), shlex.split(mistake), line.strip("| ")))
    return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Return a working directory with rows, a recipe and a finished run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name in ("rows.jsonl", "a.jsonl", "b.jsonl", "my rows.jsonl"):
        (tmp_path / name).write_text(json.dumps({"instruction": "a", "output": "b"}) + "\n")
    good = [{"instruction": f"What is {i}?", "output": f"{i}."} for i in range(40)]
    bad = {"number": {"output": 42}, "empty": {"instruction": ""}, "long": {"output": "word " * 300}}
    for name, changed in bad.items():
        lines = [json.dumps(row) + "\n" for row in [*good, {**good[0], **changed}]]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "frage.jsonl").write_text(json.dumps({"frage": "a", "antwort": "b"}) + "\n")
    (tmp_path / "tiny.yaml").write_text("model: builtin:quickstart/model\ntemplate: alpaca\n")
    (tmp_path / "mine.yaml").write_text("run_name: mine\n")
    (tmp_path / "my.jinja").write_text("{{ messages }}")
    (tmp_path / "runs/s2/adapter").mkdir(parents=True)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "runs/s2/config.yaml").write_text("run_name: s2\n")
    (tmp_path / "runs/s2/data.json").write_text(json.dumps({"prepared_dir": "prepared"}))
    (tmp_path / "sweep/001-lr=1e-4").mkdir(parents=True)
    (tmp_path / "sweep/sweep.json").write_text("{}")
    shutil.copytree(tmp_path / "runs/s2", tmp_path / "sweep/001-lr=1e-4", dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def sft(world, monkeypatch, capsys):
    """Run a command line through the entry point, and return exit code and output."""

    def run(words: list[str]) -> tuple[int, list[PrintedError]]:
        loaded = "torch" in sys.modules
        monkeypatch.setattr(sys, "argv", ["sft", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        text = capsys.readouterr().err
        assert "Traceback" not in text, text
        assert loaded or "torch" not in sys.modules or words[0] in ("merge", "doctor", "chat"), (
            "a mistake does not wait for torch"
        )
        errors = [part for part in text.split("error: ") if part.strip()]
        return int(left.value.code or 0), [parsed(error) for error in errors]

    return run


def parsed(error: str) -> PrintedError:
    head, _, fix = error.strip().partition("\n  fix: ")
    where, _, problem = head.partition(": ")
    return PrintedError(where, problem, fix)


def attempts(fix: Fix, context: list[str]) -> list[list[str]]:
    """Return the command lines of a fix."""
    typed = list(fix.commands)
    typed += [[*context, *setting] for setting in fix.settings if context]
    return typed + ([list(context)] if fix.leave and context else [])


def concerns(error: PrintedError, key: str) -> bool:
    """Return whether an error is about a key."""
    named = error.where == key or error.where.startswith(f"{key}=")
    return named or re.match(rf"(there is no key |')?{re.escape(key)}\b", error.problem) is not None


def keys(words: list[str]) -> set[str]:
    """Return the keys of settings among words."""
    return {word.partition("=")[0].lstrip("+~-") for word in words if "=" in word}


@pytest.mark.parametrize(("context", "mistake", "name"), rows(), ids=[name for _, _, name in rows()])
def test_pasted_fix_works(sft, context, mistake, name):
    code, errors = sft([*context, *mistake])

    assert (code, len(errors)) == (2, 1), errors
    typed = attempts(read(errors[0].fix), context)
    assert bool(typed) == (name.partition("| ")[2] not in PROSE), errors
    for words in typed:
        code, after = sft(words)
        assert code == 0 or words[0] not in ("show", "recipes", "formats", "--version"), (errors, words, after)
        for error in after:
            assert error != errors[0], (errors, words)
            about = keys([*mistake, *words[len(context) :]]) - keys(context)
            assert not any(concerns(error, key) for key in about), (errors, words, after)


RECIPES = [
    # a line that ends in #! is the mistake
    "quant: nf5 #!",
    "adapter: qlora #!",
    "template: qwen #!",
    "adapter: dorra #!",
    "trainer:\n  lr: fast #!",
    "trainer:\n  lr: 0,0001 #!",
    "trainer:\n  epochs: 3.0 #!",
    "trainer:\n  learning_rate: 1e-4 #!",
    "learning_rate: 1e-4 #!",
    "data:\n  val_fraction: 10 #!",
    "data:\n  path: rows.jsonl #!",
    "data:\n  mix:\n    a: rows.jsonl #!",
    "adapter:\n  target_modules: q_proj,v_proj #!",
    "datasets: [{path: rows.jsonl, type: alpaca}] #!",
    "micro_batch_size: 2 #!\ngradient_accumulation_steps: 4 #!",
    "wandb_project: mine #!",
    "defaults:\n  - quant: nf4 #!",
    "model:\n  revision: 1234 #!",
]


@pytest.mark.parametrize("text", RECIPES, ids=[text.replace("\n", " / ") for text in RECIPES])
def test_pasted_fix_in_a_recipe_works(sft, world, text):
    recipe = world / "mine.yaml"
    recipe.write_text(f"run_name: mine\n{text}\n")
    code, errors = sft(["show", "recipe=./mine.yaml"])
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].where.startswith("mine.yaml"), errors
    fix = read(errors[0].fix)
    kept = [line for line in text.splitlines() if not line.endswith("#!")]
    section = bool(kept) and all(line.endswith(":") for line in kept)  # the fix removes all keys of the section
    listed = [f"  {line}" for line in fix.lines if line.startswith("- ")]
    within = [f"  {line}" if section else line for line in fix.lines if not line.startswith("- ")]
    lines = ["defaults:", *listed] if listed else [*(kept if within or not section else []), *within]
    assert fix, errors
    recipe.write_text("\n".join(["run_name: mine", *lines, ""]))
    for setting in fix.settings or [[]]:
        assert sft(["show", "recipe=./mine.yaml", *setting]) == (0, []), (errors, recipe.read_text(), setting)


ACCEPTED = [
    ("quant: nf4", "quant.kind", "nf4"),
    ("adapter: dora", "adapter.dora", True),
    ("data: rows.jsonl", "data.mix.local.path", "rows.jsonl"),
    ("data: [alpaca, lima]", "data.mix.lima.path", "64bits/lima_vicuna_format"),
    ("template: chatml", "template.name", "chatml"),
    ("template: my.jinja", "template.path", "my.jinja"),
    ("model: Qwen/Qwen2.5-0.5B", "model.path", "Qwen/Qwen2.5-0.5B"),
    ("launcher: slurm", "launcher.kind", "slurm"),
]


@pytest.mark.parametrize(("line", "key", "value"), ACCEPTED)
def test_recipe_can_name_an_option_or_a_path_directly(world, line, key, value):
    from sft_cli.config.compose import compose
    from sft_cli.config.validate import to_plain

    (world / "mine.yaml").write_text(f"{line}\n")
    found = to_plain(compose(["recipe=./mine.yaml"]))
    for name in key.split("."):
        found = found[name]
    assert found == value


def test_rows_and_models_can_be_named_directly(world):
    from sft_cli.config.compose import compose

    whole = compose(["data=local", "data.mix.local.path=rows.jsonl"])
    assert compose(["data=rows.jsonl"]) == compose(["rows.jsonl"]) == whole
    assert compose(["recipe=quickstart", "rows.jsonl"]).data.mix.keys() == {"local"}
    assert compose(["model=Qwen/Qwen2.5-0.5B"]).model.path == "Qwen/Qwen2.5-0.5B"
    assert compose(["template=my.jinja"]).template.path == "my.jinja"


def test_list_of_mistakes_is_long_and_unique():
    names = [name for _, _, name in rows()]
    assert len(names) == len(set(names)) >= 200
    assert {name.partition("| ")[2] for name in names} >= PROSE.keys()
