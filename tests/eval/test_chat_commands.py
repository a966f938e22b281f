"""Commands and options of ``sft chat``: tokens, saved rows, retries, comparison, tools, proposed questions."""

import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from sft_cli.cli import execute
from sft_cli.config.compose import read_config
from sft_cli.config.schema.data import TrainOn
from sft_cli.errors import SftError
from sft_cli.eval.chat import display, reading
from tests.eval.conftest import QUESTIONS, write_run

PERU, CUBA = "What is the capital of Peru?", "What is the capital of Cuba?"


@pytest.fixture
def piped(run_of, capsys, monkeypatch):
    """Send lines to a chat with a run, and return what it writes to standard output and to standard error."""
    copies = {}

    def send(*lines: str, words: tuple[str, ...] = (), kind: str = "lora") -> tuple[str, str]:
        run = copies.setdefault(kind, None) or run_of(kind)
        copies[kind] = run
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        execute(["chat", str(run), *words])
        return capsys.readouterr()

    return send


@pytest.mark.every_change
def test_tokens_shows_the_ids_and_what_training_would_learn(piped):
    answers, notes = piped(PERU, "/tokens")
    assert answers == "Lima\n"
    assert "the ids that were sent are those of a training row" in notes
    assert "the generated ids are those of a training row" in notes
    assert "⟦Lima⟪stop: </s>⟫⟧" in notes
    (ids,) = re.findall(r"^ids       .*⟦([\d ]+)⟧$", notes, re.MULTILINE)
    assert ids.endswith(" 2")
    (counts,) = re.findall(r"^tokens    (.*)$", notes, re.MULTILINE)
    assert counts.endswith(f"{len(ids.split())} of them with loss")


@pytest.mark.every_change
def test_saved_conversations_are_rows_that_prepare_reads(piped, tmp_path, runs_dir, capsys):
    file = tmp_path / "saved.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')
    piped(PERU, f"/save {file}", "/reset", CUBA, f"/save {file}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[1] == {"messages": [{"role": "user", "content": PERU}, {"role": "assistant", "content": "Lima"}]}
    assert [row["messages"][-1]["content"] for row in rows] == ["b", "Lima", "Havana"]
    words = [f"model.path={runs_dir / 'base'}", "template=alpaca", f"prepared_dir={tmp_path / 'prepared'}"]
    execute(["prepare", str(file), *words, "trainer.max_length=128", "clean.steps=[]"])
    manifest = json.loads((tmp_path / "prepared/manifest.json").read_text())
    assert manifest["splits"]["train"]["examples"] == 3


@pytest.mark.every_change
def test_an_unknown_command_names_the_closest_one(piped):
    with pytest.raises(SftError) as unknown:
        piped("/resett")
    assert str(unknown.value) == (
        "/resett: there is no such command\n  fix: did you mean /reset? (//resett is a message)"
    )
    with pytest.raises(SftError, match="/help lists the commands"):
        piped("/xyz")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/retry", "/retry: there is no answer yet"),
        ("/tokens", "/tokens: there is no exchange yet"),
        ("/save x.jsonl", "/save: there is no exchange yet"),
        ("/save", "/save: it needs a file"),
        ("/tool 21", "/tool: it needs a result"),
        ("/2", "/2: there is no such proposed question"),
        ("/suggest 0", "/suggest 0: it takes a number from 1 to 20"),
        ("/suggest", "the model was not trained to write user turns"),
    ],
)
def test_a_command_that_cannot_work_is_an_error(piped, line, message):
    with pytest.raises(SftError) as refused:
        piped(line)
    assert message in str(refused.value)


def test_retry_samples_and_a_seed_repeats_it(piped):
    with pytest.raises(SftError, match="the answers are greedy"):
        piped(PERU, "/retry")
    with pytest.raises(SftError, match="a temperature is a number above 0"):
        piped(PERU, "/retry hot")
    words = ("--temperature", "9", "eval.max_new_tokens=8")
    first, _ = piped(PERU, "/retry", words=words)
    assert first == piped(PERU, "/retry", words=words)[0]
    assert first != piped(PERU, "/retry", words=(*words, "--seed", "1"))[0]
    one, other = first.splitlines()[0], first.splitlines()[-1]
    assert one != other


def test_the_system_message_is_part_of_the_prompt(piped):
    _, notes = piped("/system Be brief.", "/system", PERU, "/tokens", words=("eval.max_new_tokens=3",))
    assert notes.count("system    Be brief.\n") == 2
    assert re.search(r"Be brief\.[^⟦]*What is the capital of Peru\?", notes)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_compare_prints_the_answers_of_the_base_and_of_the_run(piped, kind):
    answers, _ = piped(PERU, words=("--compare", "base", "eval.max_new_tokens=8"), kind=kind)
    base, tuned = answers.partition("tuned     ")[::2]
    assert tuned == "Lima\n"
    assert base.startswith("base      ")
    assert "Lima" not in base


def test_options_that_cannot_work_are_errors(run_of, tmp_path):
    run = run_of("full")
    shutil.copytree(run / "model", tmp_path / "merged")
    tools = tmp_path / "tools.json"
    tools.write_text('[{"type": "function", "function": {"name": "weather", "parameters": {}}}]')
    (tmp_path / "bad.json").write_text('{"name": "weather"}')
    cases = [
        (["chat", str(run), "--tools", str(tools)], "the chat template of the model does not show tools"),
        (["chat", str(run), "--tools", str(tmp_path / "bad.json")], "it is no list of tools"),
        (["chat", str(run), "--tools", str(tmp_path / "none.json")], "No such file"),
        (["chat", str(tmp_path / "merged"), "--compare", "base"], "only a run, a saved step of one or an adapter"),
        (["chat", str(run), "--top-p", "0.5"], "greedy answers do not use it"),
    ]
    for words, message in cases:
        with pytest.raises(SftError) as refused:
            execute([*words, "--prompt", "hello"])
        assert message in str(refused.value)


def test_an_exported_adapter_answers_without_its_run(run_of, tmp_path, capsys):
    adapter = tmp_path / "exported"
    shutil.copytree(run_of("lora") / "adapter", adapter)
    execute(["chat", str(adapter), "--prompt", PERU])
    assert capsys.readouterr().out == "Lima\n"
    execute(["chat", str(adapter), "--prompt", PERU, "--compare", "base", "eval.max_new_tokens=8"])
    base, tuned = capsys.readouterr().out.partition("tuned     ")[::2]
    assert (tuned, "Lima" in base) == ("Lima\n", False)
    assert not (tmp_path / "home" / "evals").exists()


def test_a_model_without_a_template_is_given_one(runs_dir, capsys):
    words = ["chat", str(runs_dir / "base"), "--prompt", PERU]
    with pytest.raises(SftError, match="no chat template") as refused:
        execute(words)
    assert "template=" in refused.value.fix
    assert execute([*words, "template=alpaca", "eval.max_new_tokens=2"]) == 0


def test_names_that_are_no_model_are_looked_up_as_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/typo", "typo", "./a/b", "a/b/c"):
        with pytest.raises(SftError, match="there is no such directory"):
            execute(["chat", name, "--prompt", PERU])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SftError, match=r"neither a run .* nor a model"):
        execute(["chat", "empty", "--prompt", PERU])


def test_several_lines_are_one_message():
    lines = ["one\n", '"""first\n', "\n", '  second"""\n', "a \\\n", "b\n", '"""\n', "c\n", '"""\n', "", '"""open']
    assert list(reading.messages(lines)) == ["one", "first\n\n  second", "a \nb", "c", "", "open"]


def test_ctrl_c_discards_a_message_that_has_begun():
    assert list(reading.messages(['"""first', None, "second", "a \\", None, "third"])) == ["second", "third"]


def test_a_terminal_breaks_answers_between_words(monkeypatch, capsys):
    monkeypatch.setattr(display.text_layout, "terminal_width", lambda _: 12)
    writer = display.AnswerWriter()
    for piece in ("\n", "The cap", "ital of ", "Peru\nis Li", "ma, ", "averyveryverylongword"):
        writer.write(piece)
    writer.close()
    assert capsys.readouterr().out == "The capital \nof Peru\nis Lima, \naveryveryverylongword\n"
    assert writer.text == "\nThe capital of Peru\nis Lima, averyveryverylongword"


def test_two_answers_next_to_each_other(monkeypatch, capsys):
    monkeypatch.setattr(display.text_layout, "terminal_width", lambda _: 23)
    display.print_side_by_side(("base", "tuned"), ("one two three four", "five\nsix"))
    assert capsys.readouterr().out.splitlines() == ["base       | tuned", "one two    | five", "three four | six"]


@pytest.mark.slow
def test_a_model_trained_on_user_turns_proposes_questions(runs_dir, tmp_path, capsys, monkeypatch):
    config = read_config(runs_dir / "lora/config.yaml")
    data = replace(config.data, train_on=TrainOn.all)
    write_run(tmp_path / "r", replace(config, data=data, prepared_dir=str(tmp_path / "prepared")))
    monkeypatch.setattr("sys.stdin", io.StringIO("/suggest 4\n/1\n"))
    execute(["chat", str(tmp_path / "r"), "eval.max_new_tokens=40", "--temperature", "0.05"])
    notes = capsys.readouterr().err
    proposed = re.findall(r"^/\d +(.*)$", notes, re.MULTILINE)
    assert proposed
    assert set(proposed) <= {f"What is the capital of {name}?" for name in QUESTIONS}
    assert f"\n> {proposed[0]}\n" in notes


@pytest.mark.slow
def test_a_conversation_in_a_terminal_of_80_columns(run_of):
    """Through a pseudo-terminal: prompts, an answer, a message of two lines, a mistyped command; no line is wider."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "sft_cli", "chat", str(run_of("lora"))]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True)
    os.close(slave)
    shown = _until(master, "> ")
    for line, expected in ((PERU, "Lima"), ("/sav", "/save?"), ("/help", "/exit")):
        os.write(master, f"{line}\n".encode())
        shown += _until(master, expected) + _until(master, "> ")
    os.write(master, b"\x04")
    assert process.wait(60) == 0
    os.close(master)
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown).replace("\r", "\n").splitlines()
    assert "Lima" in lines
    assert [line for line in lines if len(line) > 80 and str(run_of) not in line and "/" not in line] == []


def _until(master: int, text: str) -> str:
    """Read from a terminal until a text appears."""
    shown, deadline = "", time.monotonic() + 300
    while text not in shown and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 4096).decode(errors="replace")
    assert text in shown, shown
    return shown
