"""data.overflow=truncate from rows to the prepared directory, in training and held-out rows; all tokens are counted."""

import json

import pytest

from sft_cli.chat.masks import parity
from sft_cli.cli import execute
from sft_cli.config.schema.data import Overflow
from sft_cli.prepare import encode_stage
from sft_cli.prepare.prepare import prepare_data
from sft_cli.utils import workers
from tests.prepare.helpers import read_ledger, write_jsonl

LIMIT = 70
"""Tokens: a row of the fixture has 45, a long one some 200; its answer begins at token 40."""


@pytest.fixture
def long_answers(config, tmp_path):
    """Make the config of a run over 60 rows of source ``a``: every third answer is long, ten rows are held out."""
    rows = [{"instruction": f"{i}?", "output": f"{i} " * (60 if i % 3 == 0 else 1)} for i in range(60)]
    write_jsonl(tmp_path / "a.jsonl", rows)

    def made(overflow=Overflow.truncate, max_length=LIMIT, out="out", **source):
        made_config = config()
        del made_config.data.mix["b"]
        made_config.prepared_dir = str(tmp_path / out)
        made_config.data.overflow, made_config.trainer.max_length = overflow, max_length
        made_config.data.val_rows = 10
        for key, value in source.items():
            setattr(made_config.data.mix["a"], key, value)
        return made_config

    return made


def examples(split):
    return {
        split.where(i): (split.tokens(i).input_ids.tolist(), split.tokens(i).weights.tolist())
        for i in range(len(split))
    }


def test_ledger_counts_add_up_in_both_splits(long_answers, capsys):
    whole = prepare_data(long_answers(max_length=2000, out="whole"))
    capsys.readouterr()
    result = prepare_data(long_answers())
    output = capsys.readouterr().out
    for side in ("train", "validation"):
        before, after = (examples(getattr(one, side)) for one in (whole, result))
        assert before.keys() == after.keys()
        assert after == {where: (ids[:LIMIT], weights[:LIMIT]) for where, (ids, weights) in before.items()}
    lines, uncut = read_ledger(result), {line["where"]: line for line in read_ledger(whole)}
    cut = [line for line in lines if line["truncated_tokens"]]
    assert {line["split"] for line in cut} == {"train", "validation"}
    for line in lines:
        assert line["tokens"] + line["truncated_tokens"] == uncut[line["where"]]["tokens"]
        assert (line["truncated_tokens"] > 0) == (line["tokens"] == LIMIT)
        assert line["trained_tokens"] == uncut[line["where"]]["trained_tokens"] - line["truncated_tokens"]
    counts, tokens = result.manifest["sources"]["a"], sum(line["truncated_tokens"] for line in cut)
    assert (counts["used"], counts["truncated"], counts["truncated_tokens"]) == (60, 20, tokens)
    assert counts["tokens"] + tokens == whole.manifest["sources"]["a"]["tokens"]
    assert result.manifest["remarks"] == {"cut_answer": {"rows": 20, "first": "a.jsonl:1"}}
    assert f"truncated 20 rows to trainer.max_length={LIMIT}: {tokens:,} tokens removed\n" in output
    assert (
        "note      20 rows: truncation removed the end of a trained answer with its stop token: the model does not"
        " learn to stop there (the first: a.jsonl:1)\n"
    ) in output
    assert result.manifest["stop_tokens"] == ["<|im_end|>"]
    report = (result.directory / "report.html").read_text(encoding="utf-8")
    assert f"rows that lost their last {tokens:,} tokens" in report
    assert "most truncated" in report


def test_most_truncated_row_is_shown_with_its_loss(long_answers, capsys):
    result = prepare_data(long_answers())
    worst = max(line["truncated_tokens"] for line in read_ledger(result) if line["split"] == "train")
    capsys.readouterr()
    execute(["inspect", str(result.directory), "--worst", "truncated", "-n", "1", "--plain"])
    assert f"  lost its {worst} last tokens" in capsys.readouterr().out


def test_golden_prompts_of_truncated_rows_are_complete(long_answers):
    """Served ids are compared for complete rows, even if all rows are truncated."""
    whole = prepare_data(long_answers(max_length=2000, out="whole"))
    result = prepare_data(long_answers())
    before, after = (json.loads((one.directory / "golden.json").read_text()) for one in (whole, result))
    assert [(one["where"], one["row_ids"]) for one in before] == [(one["where"], one["row_ids"]) for one in after]
    assert max(len(one["row_ids"]) for one in after) > LIMIT
    assert parity.check_parity(
        result.tokenizer_directory, parity.load_golden_prompts(result.directory / "golden.json")
    ) == len(after)


def test_stop_token_is_known_if_every_answer_is_truncated(long_answers, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"instruction": f"{i}?", "output": "word " * 60} for i in range(12)])
    made_config = long_answers()
    made_config.data.val_rows = 2
    result = prepare_data(made_config)
    assert result.manifest["remarks"]["cut_answer"]["rows"] == result.manifest["sources"]["a"]["truncated"] == 12
    assert result.manifest["stop_tokens"] == ["<|im_end|>"]


def test_result_does_not_depend_on_number_of_processes(long_answers, monkeypatch):
    monkeypatch.setattr(encode_stage, "CHUNK", 7)
    monkeypatch.setattr(encode_stage, "SMALL_BYTES", 1)
    monkeypatch.setattr(workers, "SMALL", 1)
    dropping = long_answers(Overflow.drop, out="dropped")
    dropping.data.budget.dropped = 1
    assert prepare_data(dropping).manifest["sources"]["a"]["used"] == 40
    result = []
    for number in (1, 2):
        made_config = long_answers(out=f"out{number}")
        made_config.data.workers = number
        monkeypatch.setenv("SFT_HOME", f"{made_config.prepared_dir}-home")
        result.append(prepare_data(made_config))
    assert read_ledger(result[0]) == read_ledger(result[1])
    assert result[0].manifest["content"] == result[1].manifest["content"]
    assert result[0].manifest["sources"]["a"]["truncated"] == 20


def test_truncated_streamed_source(long_answers):
    made_config = long_answers(stream=True, max_rows=30)
    made_config.data.val_rows = 2
    result = prepare_data(made_config)
    counts = result.manifest["sources"]["a"]
    cut = [line for line in read_ledger(result) if line["truncated_tokens"]]
    assert counts["used"] == 30
    assert counts["truncated"] == len(cut) > 0


def test_opened_directory_has_the_truncation_length(long_answers):
    assert prepare_data(long_answers()).validation.truncated_at == LIMIT
    assert prepare_data(long_answers(Overflow.error, max_length=2000, out="whole")).validation.truncated_at is None
