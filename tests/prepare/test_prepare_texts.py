"""Messages of `prepare` about special tokens, stop tokens and headers in the rows."""

import re

import pytest

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.errors import SftError
from sft_cli.eval.select_rows import with_run_tokenizer
from sft_cli.prepare.prepare import prepare_data
from tests.prepare.helpers import read_ledger, write_jsonl


@pytest.fixture
def prepared(config, tmp_path, capsys):
    """Return a function that prepares rows with a changed config and returns the result and the output."""

    def prepared(values, change=lambda config: None, **source):
        write_jsonl(tmp_path / "mine.jsonl", values)
        made_config = config()
        made_config.data.mix = {"mine": SourceConfig(path=str(tmp_path / "mine.jsonl"), **source)}
        change(made_config)
        capsys.readouterr()
        result = prepare_data(made_config)
        return result, made_config, capsys.readouterr().out

    return prepared


def added(*tokens):
    def change(config):
        config.model.add_tokens = list(tokens)

    return change


def test_added_token_without_any_example_is_named(prepared):
    """Held-out rows do not count; an ordinary token counts in a question, a control token only in an answer."""
    values = [{"prompt": f"<x>{i} <|ask|>", "completion": f"<|plan|>{i}"} for i in range(5)]
    result, _, printed = prepared(values, added("<x>", "<|plan|>", "<|ask|>", "<y>"))
    assert result.manifest["unused_tokens"] == ["<|ask|>", "<y>"]
    lines = re.findall(r"unused .*", printed)
    assert lines == [
        f"unused    {token} of model.add_tokens is in no training example: its embeddings would not train"
        for token in ("<|ask|>", "<y>")
    ]
    tokenizer = load_tokenizer(str(result.tokenizer_directory))
    plan = tokenizer.control_tokens["<|plan|>"]
    labels = [result.train.tokens(i) for i in range(len(result.train))]
    assert [(row.input_ids[row.weights > 0] == plan).sum() for row in labels] == [1] * 5


def test_evaluation_encodes_added_tokens_like_training(prepared):
    result, config, _ = prepared([{"prompt": "q", "completion": "<|plan|>a"}], added("<|plan|>", "<x>"))
    again = prepare_data(with_run_tokenizer(result.tokenizer_directory, config))
    assert again.manifest["content"] == result.manifest["content"]
    assert again.manifest["fingerprint"] == result.manifest["fingerprint"]


def test_content_tokens_are_inputs(prepared):
    values = [{"prompt": "q", "completion": "<|plan|>a"}]
    result, config, _ = prepared(values, added("<|plan|>"))
    served = with_run_tokenizer(result.tokenizer_directory, config)
    served.data.content_tokens = []
    assert prepare_data(served).manifest["content"] != result.manifest["content"]


def test_stop_tokens_in_answers_are_counted(prepared):
    values = [{"prompt": "q", "completion": "a"}, *({"prompt": f"q{i}", "completion": f"{i}<|im_end|>"} for i in "12")]
    result, _, printed = prepared(values)
    first = next(line["where"] for line in read_ledger(result) if line["where"].endswith((":2", ":3")))
    assert result.manifest["remarks"] == {"own_stop": {"rows": 2, "first": first}}
    assert (
        "note      2 rows: an answer ended with the template's stop token; it was removed, since the template writes "
        "it (the"
        f" first: {first})\n"
    ) in printed


def test_answer_of_only_a_stop_token_is_empty(prepared):
    result, _, _ = prepared([{"prompt": "q", "completion": "<|im_end|>"}])
    assert result.manifest["remarks"]["empty_answer"]["rows"] == 1


def test_first_sanitized_row_is_named(prepared):
    values = [{"prompt": "q", "completion": "a"}, {"prompt": "what does <|im_end|> mean?", "completion": "b"}]
    result, _, printed = prepared(values)
    assert result.manifest["remarks"] == {"sanitized": {"rows": 1, "first": "mine.jsonl:2"}}
    assert "plain text (the first: mine.jsonl:2)\n" in printed


def test_headers_of_a_plain_text_template_are_counted(prepared):
    values = [{"prompt": "q", "completion": "a"}, {"prompt": "q\n### Response:\n5", "completion": "b"}]

    def change(config):
        config.template.name = "alpaca"

    result, _, printed = prepared(values, change)
    assert result.manifest["remarks"] == {"header": {"rows": 1, "first": "mine.jsonl:2"}}
    assert (
        "note      1 row: a message holds a header of the template, which the model cannot tell from a real one"
        " (data.delimiters=error refuses such rows) (the first: mine.jsonl:2)\n"
    ) in printed


def test_column_of_rendered_conversations(prepared):
    text = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    plain, _, _ = prepared([{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(4)])
    values = [{"story": text.format(f"q{i}", f"a{i}")} for i in range(4)]
    result, _, printed = prepared(values, format="rendered", columns={"text": "story"})
    assert result.manifest["sources"]["mine"]["format"] == "rendered"
    assert result.manifest["splits"] == plain.manifest["splits"]
    assert "sanitized" not in printed


def test_rendered_document_is_refused_with_a_fix(prepared):
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    with pytest.raises(SftError) as caught:
        prepared([{"text": text}])
    assert caught.value.fix.startswith("data.mix.mine.format=rendered reads ")
    result, _, _ = prepared([{"text": text}], format="rendered")
    assert result.manifest["sources"]["mine"]["used"] == 1


def test_replay_of_rendered_conversations_is_refused(prepared):
    with pytest.raises(SftError, match="replay trains whole documents as plain text"):
        prepared([{"text": "x"}], format="rendered", role=Role.replay)
