"""Fixes for unknown commands, unknown options and former spellings, and the help of each command."""

import re

import pytest
import typer
from typer.testing import CliRunner

from sft_cli.cli import app, execute
from sft_cli.cli.usage import refuse
from sft_cli.errors import Mistakes, SftError

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # pyright: ignore[reportAttributeAccessIssue]
WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}


def refusal(*words: str) -> SftError:
    with pytest.raises(SftError) as caught:
        refuse(GROUP, words)
    return caught.value


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A working directory without runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SFT_HOME", raising=False)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["trian", "recipe=quickstart"], "did you mean: sft train recipe=quickstart"),
        (["finetune", "a b.jsonl"], "did you mean: sft train 'a b.jsonl'"),
        (["preprocess"], "did you mean: sft prepare"),
        (["save", "runs/a"], "did you mean: sft merge runs/a"),
        (["convert", "runs/a"], "did you mean: sft export runs/a"),
        (["slurm", "recipe=a"], "did you mean: sft submit recipe=a"),
        (["ls"], "did you mean: sft runs"),
        (["help"], "sft --help"),
        (["help", "train"], "sft train --help"),
        (["version"], "sft --version"),
        (["recipe=quickstart"], "name the command first: sft train recipe=quickstart"),
        (["mine.yaml", "trainer.lr=1"], "name the command first: sft train mine.yaml trainer.lr=1"),
        (["qqqq"], f"the commands are {', '.join(COMMANDS)}; sft --help describes them"),
        (["formats", "alpaca"], "remove it: sft formats"),
        (["train", "--dry-run", "recipe=a"], "to try a run without training: sft check recipe=a"),
        (["train", "--config", "a.yaml"], "a file of settings is a recipe: write recipe=a.yaml"),
        (["train", "--num-epochs", "3.0"], "here it is called trainer.epochs: write trainer.epochs=3"),
        (["train", "--recipe", "quickstart"], "type sft train recipe=quickstart"),
        (["train", "--recipe=a", "trainer.lr=1"], "type sft train recipe=a trainer.lr=1"),
        (["train", "--model", "a b", "-d", "x", "--data", "r.jsonl"], "type sft train 'model=a b' -d x data=r.jsonl"),
        (["train", "-m", "org/name", "recipe=a"], "type sft train model=org/name recipe=a"),
        (["train", "-r", "quickstart"], "type sft train recipe=quickstart"),
        (["train", "-r", "8"], "here it is called adapter.rank: write adapter.rank=8"),
        (["train", "--trainer.lr", "3", "--run-dir", "x"], "type sft train trainer.lr=3 run_dir=x"),
        (["train", "-o", "out"], "type sft train run_dir=out"),
        (["prepare", "-o", "out"], "type sft prepare prepared_dir=out"),
        (["merge", "--run", "runs/a", "-o", "m"], "type sft merge runs/a -o m"),
        (["merge", "runs/a", "--max_kl", "0.1"], "type sft merge runs/a --max-kl 0.1"),
        (["eval", "--run", "runs/a", "--data", "r.jsonl"], "type sft eval runs/a data=r.jsonl"),
        (["chat", "--run", "a", "--prompt", "Who is it?"], "type sft chat a --prompt 'Who is it?'"),
        (["inspect", "--prepared", "x", "--worst", "longest"], "type sft inspect x --worst longest"),
        (["train", "--model"], "type sft train model=DIR_OR_HUB_ID"),
        (["doctor", "--recipe", "x"], "remove it; sft doctor --help lists the options"),
        (["show", "--chnaged"], "did you mean --changed?"),
        (["train", "-d"], "write -d DIR, or remove it"),
        (["train", "--resume"], "write --resume RUN, or remove it"),
        (["merge", "runs/a", "--out", ""], "write --out DIR, or remove it"),
        (["show", "gpu=24GB"], "remove it: it is an option of sft check, see sft check --help"),
        (["eval"], "sft eval RUN"),
        (["compare"], "sft compare RUN"),
        (["eval", "data=a.jsonl"], "sft eval RUN data=a.jsonl"),
        (["inspect"], "sft inspect DIR"),
        (["inspect", "x", "longest"], "remove it: sft inspect x"),
    ],
)
def test_fix_for_unknown_commands_and_options(words, fix):
    assert refusal(*words).fix == fix


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["train", "run1", "--resume"], "type sft train --resume run1"),
        (["train", "--resume", "run1/"], None),
        (["train", "--resume"], "write --resume RUN, or remove it"),
        (["merge", "run1", "--out", ""], "write --out DIR, or remove it"),
        (["show", "--keys=lr"], "type sft show --keys lr"),
        (["show", "recipe=a", "--changed=true"], "type sft show recipe=a --changed"),
        (["show", "recipe=a", "--changed=no"], "type sft show recipe=a"),
        (["merge", "run1", "--output", "merged"], "type sft merge run1 --out merged"),
        (["sweep", "recipe=a", "--output-dir=s"], "type sft sweep recipe=a --out s"),
    ],
)
def test_fix_for_misplaced_values(tmp_path, words, fix):
    (tmp_path / "run1").mkdir()
    if fix is None:
        refuse(GROUP, words)
    else:
        assert refusal(*words).fix == fix


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_no_python_types(name, capsys):
    execute([name, "--help"])
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert not re.search(r"<list\[|<Path|<str|<bool", shown)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("eval", "RUN [KEY=VALUE]..."),
        ("compare", "RUN..."),
        ("inspect", "DIR"),
        ("runs", "[FOLDER]..."),
        ("docs", "[TOPIC]"),
    ],
)
def test_the_usage_line_names_the_arguments(name, arguments, capsys):
    execute([name, "--help"])
    assert f"Usage: sft {name} [OPTIONS] {arguments} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train recipe=a run=runs/a", "train recipe=a run_dir=runs/a"),
        ("train recipe=a out=runs/a", "train recipe=a run_dir=runs/a"),
        ("prepare recipe=a out=p", "prepare recipe=a prepared_dir=p"),
        ("train resume=runs/a", "train --resume runs/a"),
        ("eval run=runs/a compare=base step=5", "eval runs/a --compare base --step 5"),
        ("eval eval.max_rows=5 run=runs/a", "eval runs/a eval.max_rows=5"),
        ("chat run=runs/a prompt=hello system=x", "chat runs/a --prompt hello --system x"),
        ("merge run=a out=b into=dequantized max_kl=0.1", "merge a --out b --into dequantized --max-kl 0.1"),
        ("inspect prepared=p worst=longest n=1 split=train", "inspect p --worst longest -n 1 --split train"),
        ("inspect p row=17", "inspect p --row 17"),
        ("inspect p grep=x limit=5", "inspect p --text x -n 5"),
        ("check recipe=a gpu=24GB rows=all price=2", "check recipe=a --gpu 24GB --rows all --price 2"),
        ("check tokens_per_second=5 recipe=a", "check --tokens-per-second 5 recipe=a"),
        ("check recipe=a like=runs/a", "check recipe=a --like runs/a"),
        ("sweep recipe=a parallel=2 metric=nll mode=max", "sweep recipe=a --parallel 2 --metric nll --mode max"),
        ("sweep sweep_dir=s recipe=a", "sweep --out s recipe=a"),
        ("sweep sweep=s", "sweep --resume s"),
    ],
)
def test_former_spelling_suggests_the_corrected_line(old, new):
    error = refusal(*old.split())
    assert error.where == "command line"
    assert "\n" not in error.problem
    assert error.fix == f"type sft {new}"
    refuse(GROUP, new.split())


def test_two_kinds_of_misspelt_options_are_corrected_separately():
    with pytest.raises(Mistakes) as caught:
        refuse(GROUP, ["train", "--recipe", "a", "--num-epochs", "3"])
    assert [error.fix for error in caught.value.errors] == [
        "write recipe=a",
        "here it is called trainer.epochs: write trainer.epochs=3",
    ]


@pytest.mark.parametrize("command", ["generate", "predict"])
def test_serving_commands_suggest_chat_and_merge(command):
    assert "sft merge RUN --out merged" in refusal(command).fix


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--install-completion"],
        ["train", "-h", "--flub"],
        ["train", "trainer.lr=-1"],
        ["show", "-d", "x"],
        ["train", "-dx"],
        ["chat", "runs/a", "--system", ""],
        ["show", "--keys", "lr"],
        ["train", "--resume", "-1"],
    ],
)
def test_valid_command_lines_pass(words):
    refuse(GROUP, words)


@pytest.mark.parametrize(
    ("words", "where", "fix"),
    [
        (["merge", "a", "--max-kl", "0,001"], "--max-kl 0,001", "did you mean --max-kl 0.001?"),
        (["merge", "a", "--max-kl", "-1"], "--max-kl -1", "did you mean --max-kl 1?"),
        (["merge", "a", "--max-kl", "nan"], "--max-kl nan", "write --max-kl NATS, or remove it"),
        (["merge", "a", "--into", "orignal"], "--into orignal", "did you mean --into original?"),
        (["merge", "a", "--into", "4bit"], "--into 4bit", "choose one of --into original, --into dequantized"),
        (["inspect", "a", "--worst", "longst"], "--worst longst", "did you mean --worst longest?"),
        (["inspect", "a", "-n", "three"], "-n three", "write -n N, or remove it"),
        (["sweep", "--parallel", "2.5"], "--parallel 2.5", "did you mean --parallel 2 or --parallel 3?"),
        (["eval", "a", "--step", "none"], "--step none", "write --step N, or remove it"),
        (["check", "--rows", "-1"], "--rows -1", "did you mean --rows all?"),
        (["check", "--rows", "0.5"], "--rows 0.5", "did you mean --rows 1?"),
    ],
)
def test_a_bad_value_of_an_option_is_a_sentence_with_the_value_that_was_meant(words, where, fix):
    with pytest.raises(SftError) as caught:
        execute(words)
    assert (caught.value.where, caught.value.fix) == (where, fix)
    assert caught.value.problem[0].islower() or not caught.value.problem[0].isalpha()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_its_options_and_has_an_example_that_is_right(name):
    text = CliRunner().invoke(app, [name, "--help"], env=WIDE).stdout
    options = [spelling for one in COMMANDS[name].params for spelling in one.opts if spelling.startswith("--")]
    assert [spelling for spelling in options if spelling not in text] == []
    assert all(one.help for one in COMMANDS[name].params), "every option and argument is explained"
    (example,) = re.findall(r"Example: sft (.+?)(?:, or .*)?$", text, flags=re.MULTILINE)
    words = example.replace('"', "").split()
    assert words[0] == name
    refuse(GROUP, words)


def test_options_of_the_same_name_are_written_and_shortened_alike():
    spellings: dict[str, set[tuple[str, ...]]] = {}
    for command in COMMANDS.values():
        for one in command.params:
            if one.param_type_name == "option":
                spellings.setdefault(one.name, set()).add(tuple(one.opts))
    assert {name: found for name, found in spellings.items() if len(found) > 1} == {}


def test_help_has_no_brackets_that_rich_would_remove():
    """Rich reads ``[word]`` as a style, and prints nothing for it."""
    from sft_cli.cli.program import _commands

    texts = {name: command.help for name, command in _commands().commands.items()}
    assert len(texts) > 10
    assert [name for name, text in texts.items() if re.search(r"\[[a-z]", text)] == []
