"""`sft chat`: one answer to ``--prompt``, or a conversation line by line, in the trained format."""

import io
import re
import shutil

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.eval.chat.reading import PROMPT
from sft_cli.eval.chat.session import CHAT_COMMANDS


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_question_prints_only_its_answer(run_of, capsys, kind):
    execute(["chat", str(run_of(kind)), "--prompt", "What is the capital of Japan?"])
    assert capsys.readouterr().out == "Tokyo\n"


def test_merged_model_answers_without_its_run(run_of, tmp_path, capsys):
    shutil.copytree(run_of("full") / "model", tmp_path / "merged")
    execute(["chat", str(tmp_path / "merged"), "--prompt", "What is the capital of Japan?"])
    assert capsys.readouterr().out == "Tokyo\n"


def test_part_of_a_run_is_refused_with_the_command_for_the_run(run_of):
    run = run_of("full")
    with pytest.raises(SftError) as caught:
        execute(["chat", str(run / "model")])
    assert caught.value.fix == f"sft chat {run}"


def test_lines_are_messages_until_the_input_ends(run_of, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("What is the capital of Peru?\n\n/reset\nWhat is the capital of Cuba?\n")
    )
    execute(["chat", str(run_of("lora"))])
    assert capsys.readouterr().out == "Lima\nHavana\n"


PERU, CUBA = "What is the capital of Peru?", "What is the capital of Cuba?"
FULL = re.compile(r"error: sft chat: the conversation has \d+ tokens, the model's context \d+")


class Terminal(io.StringIO):
    """Lines that a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(run_of, capsys, monkeypatch):
    """Type lines into a chat, and return what it writes to standard output and to standard error."""
    run = str(run_of("lora"))

    def type_lines(*lines: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in lines)))
        execute(["chat", run])
        return capsys.readouterr()

    return type_lines


def test_a_conversation_that_fills_the_context_is_an_error(run_of):
    with pytest.raises(SftError, match=r"the conversation has \d+ tokens, the model's context \d+"):
        execute(["chat", str(run_of("lora")), "--prompt", "long " * 2000])


def test_commands_of_a_typed_conversation(typed):
    """Only the answers are on standard output; Ctrl-D and /exit end."""
    answers, notes = typed("", "  ", "/help", PERU, "/reset", CUBA, "/exit", PERU)
    assert answers == "Lima\nHavana\n"
    assert all(f"{name:<9} {meaning}" in notes for name, meaning in CHAT_COMMANDS.items())
    assert notes.count(PROMPT) == 7
    assert typed(PERU)[0] == "Lima\n"


def test_a_typed_message_that_fills_the_context_leaves_the_conversation_as_it_was(typed):
    answers, notes = typed(PERU, "long " * 2000, "/reset", CUBA)
    assert answers == "Lima\nHavana\n"
    assert FULL.search(notes)


def test_an_answer_cut_at_its_limit_is_noted(run_of, capsys):
    execute(["chat", str(run_of("lora")), "--prompt", PERU, "eval.max_new_tokens=2"])
    answer, notes = capsys.readouterr()
    assert "Lima\n".startswith(answer[:-1])
    assert "warning: the answer was cut after eval.max_new_tokens=2\n" in notes


@pytest.mark.parametrize("is_typed", [True, False])
def test_ctrl_c_ends_the_answer_of_a_typed_conversation(run_of, capsys, monkeypatch, is_typed):
    """What was written stays in the conversation; in a script it ends the command."""
    seen = []

    def put(streamer, value):
        if streamer.next_tokens_are_prompt:
            seen.append(streamer.tokenizer.decode(value.flatten()))
            streamer.next_tokens_are_prompt = False
        else:
            streamer.on_finalized_text("Li")
            raise KeyboardInterrupt

    monkeypatch.setattr("sft_cli.eval.streaming._CallbackStreamer.put", put)
    monkeypatch.setattr("sys.stdin", (Terminal if is_typed else io.StringIO)(f"{PERU}\nCuba?\n"))
    assert execute(["chat", str(run_of("lora"))]) == (0 if is_typed else 130)
    assert len(seen) == 1 + is_typed
    assert capsys.readouterr().out == ("Li\nLi\n" if is_typed else "Li\n")
    assert not is_typed or "Li" in seen[1]


def test_settings_without_effect_are_refused(run_of):
    with pytest.raises(SftError, match="sft chat does not read this key"):
        execute(["chat", str(run_of("lora")), "trainer.lr=1"])
    with pytest.raises(SftError, match="no run is named"):
        execute(["chat", "--prompt", "hello"])
