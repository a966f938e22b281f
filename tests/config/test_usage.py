"""What is said about commands and options, and what the help of each command names."""

import pytest
import typer
from typer.testing import CliRunner

from sft_cli.check.asked import NAMES as CHECK
from sft_cli.cli import app
from sft_cli.config.keys.valid_keys import COMMANDS_OF
from sft_cli.errors import Mistakes, SftError
from sft_cli.eval.chat import OWN as CHAT
from sft_cli.eval.run import OWN as EVAL
from sft_cli.report.words import NAMES as INSPECT
from sft_cli.sweep.command import OWN as SWEEP
from sft_cli.usage import COMMANDS, WORDS, refuse

MERGE = ("run", "out", "into", "max_kl")


def refusal(*words: str) -> SftError:
    with pytest.raises(SftError) as caught:
        refuse(words)
    return caught.value


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["trian", "recipe=quickstart"], "did you mean: sft train recipe=quickstart"),
        (["finetune", "a b.jsonl"], "did you mean: sft train 'a b.jsonl'"),
        (["preprocess"], "did you mean: sft prepare"),
        (["export", "run=x"], "did you mean: sft merge run=x"),
        (["help"], "sft --help"),
        (["help", "train"], "sft train --help"),
        (["version"], "sft --version"),
        (["recipe=quickstart"], "name the command first: sft train recipe=quickstart"),
        (["mine.yaml", "trainer.lr=1"], "name the command first: sft train mine.yaml trainer.lr=1"),
        (["qqqq"], f"the commands are {', '.join(COMMANDS)}; sft --help says what they do"),
        (["formats", "alpaca"], "leave it out: sft formats"),
        (["train", "--dry-run", "recipe=a"], "to try a run without training: sft check recipe=a"),
        (["train", "--config", "a.yaml"], "a file of settings is a recipe: write recipe=a.yaml"),
        (["train", "--resume", "runs/a"], "resume a run by its directory: sft train run=runs/a"),
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
        (["merge", "--run", "runs/a", "-o", "m"], "type sft merge run=runs/a out=m"),
        (["eval", "--run", "runs/a", "--data", "r.jsonl"], "type sft eval run=runs/a data=r.jsonl"),
        (["chat", "--run", "a", "--prompt", "Who is it?"], "type sft chat run=a 'prompt=Who is it?'"),
        (["check", "--gpu", "24GB"], "type sft check gpu=24GB"),
        (["inspect", "--prepared", "x", "--worst", "longest"], "type sft inspect prepared=x worst=longest"),
        (["train", "--model"], "type sft train model=DIR_OR_HUB_ID"),
        (["doctor", "--recipe", "x"], "leave it out: sft doctor"),
        (["show", "--chnaged"], "did you mean --changed?"),
        (["train", "-d"], "write -d DIR, or leave it out"),
    ],
)
def test_what_is_said(words, fix):
    assert refusal(*words).fix == fix


def test_an_option_that_is_a_word_beside_one_that_is_none_is_corrected_by_itself():
    with pytest.raises(Mistakes) as caught:
        refuse(["train", "--recipe", "a", "--num-epochs", "3"])
    assert [error.fix for error in caught.value.errors] == [
        "write recipe=a",
        "here it is called trainer.epochs: write trainer.epochs=3",
    ]


@pytest.mark.parametrize("command", ["generate", "serve"])
def test_who_wants_to_talk_to_the_model_is_told_how(command):
    assert "sft merge run=DIR out=merged" in refusal(command).fix


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["train", "-h", "--flub"], ["train", "trainer.lr=-1"], ["show", "-d", "x"], ["train", "-dx"]],
)
def test_what_is_right_passes(words):
    refuse(words)


def test_the_table_of_commands_is_that_of_the_app():
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert set(commands) == set(COMMANDS)
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
        assert options - {"--help", "-h"} == set(COMMANDS[name])


@pytest.mark.parametrize(
    ("command", "own"),
    [
        *(("train", ("run",)), ("eval", (*EVAL, "step")), ("merge", (*MERGE, "step")), ("chat", (*CHAT, "step"))),
        *(("sweep", SWEEP), ("check", CHECK), ("inspect", INSPECT)),
    ],
)
def test_the_help_of_a_command_names_its_own_words(command, own):
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).stdout
    assert set(WORDS[command]) == set(own)
    assert [name for name in own if f"{name}=" not in text] == []
    assert f"Example: sft {command} " in text
    assert [name for name in own if name in COMMANDS_OF and command not in COMMANDS_OF[name]] == []
