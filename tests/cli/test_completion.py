"""Shell completion of commands, options, keys, groups, recipes and runs, by the shell's own protocol."""

import os
import shutil
import subprocess
import sys

import pytest

from sft_cli.cli.completion import complete_override, joined

PROBE = """
import sys
from sft_cli.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "numpy", "hydra"} & set(sys.modules)
    assert not heavy, heavy
"""


def asked(shell: str, cwd, **variables: str) -> list[str]:
    """Return the candidates for a shell, one per line."""
    environment = {**os.environ, "_SFT_COMPLETE": f"complete_{shell}", **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def values(incomplete: str) -> list[str]:
    return [value for value, _ in complete_override(incomplete)]


@pytest.mark.parametrize(
    ("incomplete", "among"),
    [
        ("rec", ["recipe="]),
        ("tr", ["trainer=", "trainer.lr="]),
        ("recipe=", ["recipe=quickstart"]),
        ("quant=", ["quant=nf4", "quant=none"]),
        ("speed.packing=", ["speed.packing=true", "speed.packing=false"]),
        ("trainer.schedule=", ["trainer.schedule=cosine", "trainer.schedule=constant"]),
        ("data.mix.mine.pa", ["data.mix.mine.path="]),
        ("data.mix.", ["data.mix.local.path="]),
    ],
)
def test_keys_groups_and_values_complete(incomplete, among):
    found = values(incomplete)
    assert set(among) <= set(found)
    assert all(value.startswith(incomplete) for value in found)
    assert len(found) == len(set(found))


def test_key_without_value_is_never_the_only_candidate():
    """A shell adds a space after the only one, and the value could not be typed."""
    found = values("trainer.warmup_ra")
    assert found[0] == "trainer.warmup_ratio="
    assert found[1].startswith("trainer.warmup_ratio=0.")


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        (["sft", "show", "recipe", "=", "qu"], 4, (["sft", "show", "recipe=qu"], 2, True)),
        (["sft", "show", "recipe", "="], 3, (["sft", "show", "recipe="], 2, True)),
        (["sft", "show", "a", "=", "1", "b"], 5, (["sft", "show", "a=1", "b"], 3, False)),
        (["sft", "show", "a", "=", "1"], 5, (["sft", "show", "a=1", ""], 3, False)),
        (["sft", "show"], 2, (["sft", "show", ""], 2, False)),
    ],
)
def test_words_that_bash_split_are_joined(words, place, expected):
    assert joined(words, place) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["show", "recipe", "=", "alpaca_q"], ["alpaca_qlora"]),
        (["show", "quant", "="], ["fp4", "int8", "nf4", "none"]),
        (["merge", "x", "--into", "o"], ["original"]),
        (["check", "--gpu", "h"], ["h100", "h200"]),
        (["eval", ""], ["runs/a"]),
        (["compare", "runs/b", ""], ["runs/a"]),
        (["train", "--resume", ""], ["runs/a"]),
    ],
)
def test_the_script_for_bash_completes(tmp_path, words, expected):
    """The printed script itself, sourced in bash, with the words as bash splits them."""
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").write_text("run_name: a\n")
    program = tmp_path / "sft"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sft_cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("SFT_HOME", None)
    script = subprocess.run(
        ["sft", "--show-completion", "bash"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    typed = " ".join(f"'{word}'" for word in ["sft", *words])
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _sft_completion sft; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


def test_zsh_and_fish_get_whole_words_with_their_help(tmp_path):
    zsh = asked("zsh", tmp_path, _TYPER_COMPLETE_ARGS="sft show quant=n")
    assert zsh[0].startswith('_arguments \'*: :(("quant=nf4":')
    fish = asked("fish", tmp_path, _TYPER_COMPLETE_ARGS="sft show quant=n", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert [line.partition("\t")[0] for line in fish] == ["quant=nf4", "quant=none"]
