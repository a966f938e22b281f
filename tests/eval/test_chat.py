"""`sft chat`: one answer to ``--prompt``, or a conversation line by line, in the trained format."""

import io

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_question_prints_only_its_answer(run_of, capsys, kind):
    execute(["chat", str(run_of(kind)), "--prompt", "What is the capital of Japan?"])
    assert capsys.readouterr().out == "Tokyo\n"


def test_lines_are_messages_until_the_input_ends(run_of, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("What is the capital of Peru?\n\n/clear\nWhat is the capital of Cuba?\n")
    )
    execute(["chat", str(run_of("lora"))])
    assert capsys.readouterr().out == "Lima\nHavana\n"


def test_a_conversation_that_fills_the_context_is_an_error(run_of):
    with pytest.raises(SftError, match=r"the conversation has \d+ tokens, the model's context \d+"):
        execute(["chat", str(run_of("lora")), "--prompt", "long " * 2000])


def test_settings_without_effect_are_refused(run_of):
    with pytest.raises(SftError, match="sft chat does not read this key"):
        execute(["chat", str(run_of("lora")), "trainer.lr=1"])
    with pytest.raises(SftError, match="no run is named"):
        execute(["chat", "--prompt", "hello"])
