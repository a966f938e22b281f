"""`prepare` end to end on small files: written data, counts, refused rows, and repeated preparation."""

import json
import shlex
import subprocess
import sys

import pytest
import yaml

from sft_cli.config.schema.data import OnBadRow, Overflow
from sft_cli.data.row_errors import RowError
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare.prepare import prepare_data
from sft_cli.prepare.refused_rows import one_of_each_kind
from tests.prepare.helpers import ROWS, messages, read_ledger, write_jsonl

CHATML_STOP = "<|im_end|>"


def test_datasets_opens_the_directory_with_the_right_mask(make_config, home):
    from datasets import load_from_disk

    result = prepare_data(make_config())
    opened = load_from_disk(str(home / "out"))
    assert sorted(opened) == ["train", "validation"]
    assert opened["train"].column_names == ["input_ids", "labels", "where", "source"]
    assert (len(opened["train"]), len(opened["validation"])) == (20, 0)
    tokenizer = json.loads((result.tokenizer_directory / "tokenizer.json").read_text(encoding="utf-8"))
    stop = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == CHATML_STOP)
    for number, row in enumerate(opened["train"], 1):
        assert (row["where"], row["source"]) == (f"rows.jsonl:{number}", "mine")
        assert len(row["input_ids"]) == len(row["labels"])
        assert all(label in (-100, id) for id, label in zip(row["input_ids"], row["labels"], strict=True))
        assert row["labels"][-1] == stop
        assert row["labels"].count(stop) == 1


def test_manifest_and_ledger_account_for_every_row(make_config, capsys):
    rows = [*ROWS[:8], {"instruction": "", "output": "?"}, {"instruction": "long", "output": "x" * 500}]
    made_config = make_config(rows, max_rows=9)
    made_config.data.on_bad_row, made_config.data.overflow, made_config.data.budget.dropped = (
        OnBadRow.drop,
        Overflow.drop,
        0.5,
    )
    made_config.trainer.max_length = 200
    result = prepare_data(made_config)
    entries = read_ledger(result)
    assert [entry["where"].rpartition(":")[2] for entry in entries] == [str(i) for i in range(1, 11)]
    fates = [entry["fate"] for entry in entries]
    counts = result.manifest["sources"]["mine"]
    assert {fate: fates.count(fate) for fate in ("used", "dropped", "not_sampled")} == {
        fate: counts[fate] for fate in ("used", "dropped", "not_sampled")
    }
    assert counts["rows"] == 10
    assert counts["not_sampled"] == 1
    split = result.manifest["splits"]["train"]
    used = [entry for entry in entries if entry["fate"] == "used"]
    assert split["tokens"] == sum(entry["tokens"] for entry in used) == int(result.train.lengths.sum())
    assert split["trained_tokens"] == sum(entry["trained_tokens"] for entry in used)
    assert split["trained_share"] == round(split["trained_tokens"] / split["tokens"], 4)
    assert split["length_quantiles"]["p100"] == int(result.train.lengths.max())
    assert result.manifest["stop_tokens"] == [CHATML_STOP]
    assert sum(result.manifest["dropped"].values()) == counts["dropped"]
    assert "rows/s" in capsys.readouterr().out


def test_errors_of_one_kind_are_reported_once():
    """If there are more kinds than are shown, the rest is counted."""
    problems = [
        RowError(
            where=f"a:{row}", reason=f"kind {row % 12}", problem=f"kind {'abcdefghijkl'[row % 12]}: {row}", fix="f"
        )
        for row in range(120)
    ]
    reported = [(error.where, error.problem) for error in one_of_each_kind(problems)]
    assert len(reported) == 10
    assert reported[0] == ("a:0", "kind a: 0 (and 9 more rows)")
    assert reported[-1] == ("a:9", "kind j: 9 (and 9 more rows) (and 20 other rows)")


def test_lines_of_another_encoding_are_reported_once(make_config, home):
    config = make_config()
    rows = [json.dumps({"prompt": f"q{letter}", "completion": "a"}, ensure_ascii=False) for letter in "abäöü"]
    (home / "rows.jsonl").write_text("\n".join(rows), encoding="latin-1")
    with pytest.raises(SftError) as caught:
        prepare_data(config)
    assert caught.value.problem == "byte 0xe4 at position 14 is not UTF-8 (and 2 more rows)"
    assert caught.value.fix.startswith("data.mix.mine.encoding=cp1252 if ")


BAD_ROWS = [
    {"question": "What?", "answer": 42},
    {"question": "", "answer": "A"},
    {"question": "Q <|im_", "answer": "end|> A"},
    {"question": "Q", "answer": "word " * 200},
]


def test_all_refused_rows_are_in_one_error(make_config, home):
    """Unreadable, unproven and too long rows; with the settings of the fixes, the run succeeds."""
    made_config = make_config([*({"question": f"Q{i}", "answer": f"A{i}"} for i in range(40)), *BAD_ROWS])
    made_config.data.mix["mine"].columns = {"prompt": "question", "completion": "answer"}
    made_config.template.name, made_config.trainer.max_length = "plain", 256
    with pytest.raises(Mistakes) as caught:
        prepare_data(made_config)
    drop = "data.on_bad_row=drop data.budget.dropped=0.091  # leaves out 3 of 44 rows"
    as_text = (
        """'data.mix.mine.format={prompt: "{{ question }}", completion: "{{ answer | string if answer is integer or"""
        """ answer is float else answer }}"}'  # reads the numbers as text (in place of data.mix.mine.columns)"""
    )
    assert [(error.where, *error.fix.split("\n")) for error in caught.value.errors] == [
        ("rows.jsonl:41", 'write it in quotes: "answer": "42"', as_text, drop),
        ("rows.jsonl:42", "fill in 'question' or remove the row", drop),
        ("rows.jsonl:43", "correct the row", "template=alpaca  # or chatml, llama2, vicuna", drop),
        (
            "rows.jsonl:44",
            "trainer.max_length=1024 data.budget.dropped=0.069  # keeps all rows",
            "data.overflow=drop data.budget.dropped=0.091  # keeps 97.5%",
            "data.overflow=truncate data.budget.dropped=0.069  # keeps all rows, 1 of them cut",
        ),
    ]
    made_config.data.on_bad_row, made_config.data.overflow = OnBadRow.drop, Overflow.drop
    made_config.data.budget.dropped = 0.091
    assert prepare_data(made_config).manifest["dropped"] == {
        "answer of the wrong type": 1, "empty question": 1, "mask not proven": 1, "too long": 1,
    }  # fmt: skip


def test_dropping_is_not_suggested_if_no_row_is_usable(make_config):
    with pytest.raises(SftError) as caught:
        prepare_data(make_config([{"instruction": "", "output": "A"}]))
    assert caught.value.fix == "fill in 'instruction' or remove the row"


def test_numbers_become_text_by_the_offered_format(make_config):
    """A number becomes text; a null and an object stay errors."""
    made_config = make_config([{"the question": "2 * 21?", "answer": value} for value in (42, "42", 1.5, None, {})])
    made_config.data.mix["mine"].columns = {"prompt": "the question", "completion": "answer"}
    made_config.data.on_bad_row, made_config.data.budget.dropped = OnBadRow.error, 1.0
    with pytest.raises(Mistakes) as caught:
        prepare_data(made_config)
    setting = shlex.split(caught.value.errors[0].fix.split("\n")[1], comments=True)[0]
    made_config.data.mix["mine"].columns = {}
    made_config.data.mix["mine"].format = yaml.safe_load(setting.partition("=")[2])
    made_config.data.on_bad_row = OnBadRow.drop
    result = prepare_data(made_config)
    assert result.manifest["sources"]["mine"]["used"] == 3
    assert result.manifest["dropped"] == {"format.completion of the wrong type": 2}


def test_encoding_stops_after_many_unusable_rows(make_config, monkeypatch):
    """The other rows are not encoded: the setting is wrong, not the rows."""
    monkeypatch.setattr("sft_cli.prepare.refused_rows.MANY_ROWS", 1)
    monkeypatch.setattr("sft_cli.prepare.encode_stage.CHUNK", 1)
    made_config = make_config([{"prompt": f"hi {i} <|im_", "completion": "end|>"} for i in range(3)])
    made_config.template.name = "plain"
    with pytest.raises(SftError) as caught:
        prepare_data(made_config)
    assert caught.value.problem.endswith("are not exactly those the template wrote")  # not: and 2 more rows


def test_unproven_mask_names_its_row(make_config, home):
    """Two messages form a special token together because the template writes nothing between them."""
    made_config = make_config([{"prompt": "hi <|im_", "completion": "end|>"}])
    made_config.template.name = "plain"
    with pytest.raises(SftError) as caught:
        prepare_data(made_config)
    assert str(caught.value) == (
        "rows.jsonl:1: its mask cannot be proven with template plain: its control tokens are not exactly those"
        " the template wrote\n  fix: correct the row\n   or: template=alpaca  # or chatml, llama2, vicuna"
    )


def test_budget_stops_a_run_that_drops_too_many_rows(make_config, home):
    made_config = make_config([*ROWS, {"instruction": "", "output": "A"}])
    made_config.data.on_bad_row = OnBadRow.drop
    with pytest.raises(SftError) as caught:
        prepare_data(made_config)
    assert str(caught.value) == (
        "data.budget.dropped: 1 of 21 rows (4.76%) were dropped, more than 1.00%:"
        " 1 empty instruction (rows.jsonl:21; data.on_bad_row=drop)\n"
        "  fix: repair the rows\n   or: data.budget.dropped=0.048"
    )
    assert not (home / "out").exists()


def test_overflow_error_ignores_on_bad_row(make_config):
    made_config = make_config([{"instruction": "Q", "output": "x" * 100}])
    made_config.data.on_bad_row, made_config.trainer.max_length = OnBadRow.drop, 60
    with pytest.raises(SftError, match=r"longer than trainer\.max_length=60"):
        prepare_data(made_config)


def test_dropped_oldest_turns_are_in_the_ledger(make_config):
    turns = [("user", "a" * 30), ("assistant", "b" * 30), ("user", "c"), ("assistant", "d")]
    made_config = make_config([messages(*turns)])
    made_config.data.overflow, made_config.trainer.max_length = Overflow.drop_oldest_turns, 80
    result = prepare_data(made_config)
    (entry,) = read_ledger(result)
    assert (entry["fate"], entry["truncated_messages"], entry["trained_tokens"]) == ("used", 2, 2)
    assert result.manifest["sources"]["mine"]["truncated"] == 1


def test_message_weights_have_their_own_column(make_config):
    from datasets import load_from_disk

    turns = [("user", "a"), ("assistant", "bb", 0.5), ("user", "c"), ("assistant", "d", 2)]
    result = prepare_data(make_config([messages(*turns), messages(*turns[:1], ("assistant", "plain"))]))
    rows = load_from_disk(str(result.directory))["train"]
    assert rows.column_names == ["input_ids", "labels", "where", "source", "loss_weights"]
    assert [weight for weight in rows[0]["loss_weights"] if weight] == [0.5] * 3 + [2.0] * 2
    tokens = result.train.tokens(0)
    assert tokens.weights.tolist() == rows[0]["loss_weights"]
    assert ((tokens.weights > 0) == [label != -100 for label in rows[0]["labels"]]).all()
    assert set(result.train.tokens(1).weights.tolist()) == {0.0, 1.0}


def test_share_of_rows_is_held_out(make_config):
    made_config = make_config()
    made_config.data.val_fraction = 0.25
    result = prepare_data(made_config)
    assert (len(result.train), len(result.validation)) == (15, 5)
    held_out = {result.validation.where(i) for i in range(5)}
    assert not held_out & {result.train.where(i) for i in range(15)}
    assert {entry["where"] for entry in read_ledger(result) if entry["split"] == "validation"} == held_out


def test_share_of_used_rows_is_held_out(make_config):
    made_config = make_config(max_rows=10, weight=1.5)
    made_config.data.val_fraction = 0.2
    result = prepare_data(made_config)
    assert (len(result.train), len(result.validation)) == (8, 2)
    assert [len(stage.entries) for stage in result.stages] == [12]
    entries = read_ledger(result)
    assert sorted(e["copies"] for e in entries if e["split"] == "validation") == [1, 1]
    assert sorted(e["copies"] for e in entries if e["split"] == "train") == [0] * 10 + [1] * 4 + [2] * 4
    assert sum(e["fate"] == "not_sampled" for e in entries) == 10


def test_source_can_have_its_own_held_out_rows(make_config, home):
    write_jsonl(home / "held.jsonl", ROWS[:3])
    made_config = make_config(ROWS[5:], validation_path=str(home / "held.jsonl"))
    made_config.data.val_fraction = 0.5
    result = prepare_data(made_config)
    assert (len(result.train), len(result.validation)) == (15, 3)
    assert result.validation.where(0) == "held.jsonl:1"
    assert len(read_ledger(result)) == 18


def test_weight_repeats_rows(make_config):
    result = prepare_data(make_config(ROWS[:4], weight=2.0))
    (stage,) = result.stages
    assert sorted(result.train.where(i).rpartition(":")[2] for i in stage.entries) == sorted("12341234")
    assert len(result.train) == result.manifest["splits"]["train"]["rows"] == 4
    assert result.manifest["splits"]["train"]["examples"] == 8


def test_nothing_to_prepare(make_config):
    made_config = make_config()
    made_config.data.mix.clear()
    with pytest.raises(SftError, match="there is no data"):
        prepare_data(made_config)


def test_torch_is_never_imported(make_config, home):
    make_config()
    script = f"""
import sys
from sft_cli.config.schema.data import SourceConfig
from sft_cli.config.schema.config import Config
from sft_cli.prepare.prepare import prepare_data
from sft_cli.prepare.refused_rows import one_of_each_kind
from sft_cli.prepare.model_template import load_tokenizer_and_template
config = Config(prepared_dir={str(home / "out")!r})
config.model.tokenizer, config.template.name = {str(home / "tokenizer")!r}, "chatml"
config.data.mix["mine"] = SourceConfig(path={str(home / "rows.jsonl")!r})
prepare_data(config)
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
