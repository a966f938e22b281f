"""The stages of `prepare`: which ones run again after a change, and which do not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.clean.base import Finding
from sft_cli.config.schema.clean import Action
from sft_cli.config.schema.data import BudgetConfig, OnBadRow, SourceConfig, Strategy
from sft_cli.data import row_store
from sft_cli.errors import SftError
from sft_cli.prepare import encode_stage
from sft_cli.prepare import rows_stage as making_rows
from sft_cli.prepare.filter_stage import FindingWriter
from sft_cli.prepare.prepare import prepare_data
from sft_cli.types import Conversation, Message
from sft_cli.utils import workers
from tests.prepare.helpers import make_rows, write_jsonl
from tests.prepare.stage_helpers import change_priority


def made_parts(home):
    """Return every part of every stage with the time it was written."""
    return {
        str(file.relative_to(home)): file.stat().st_mtime_ns
        for file in (home / "stages").rglob("*.arrow")
        if ".partial" not in str(file)
    }


def new_stages(before, after):
    """Return the stages with new parts."""
    return sorted({Path(file).parts[1] for file in after if after[file] != before.get(file)})


def change_weight(config, home):
    config.data.mix["a"].weight = 2.0


def change_strategy(config, home):
    config.data.strategy = Strategy.trained_tokens


def change_fraction(config, home):
    config.data.val_fraction = 0.2


def change_template(config, home):
    config.template.name = "vicuna"


def change_length(config, home):
    config.trainer.max_length = 1024


def change_what_is_trained(config, home):
    config.data.train_on_tool_results = True


def change_filter(config, home):
    config.clean.steps = ["leakage", "exact_duplicates", "length"]


def change_last_filter(config, home):
    config.clean.length.min_answer_words = 2


def change_rows_of_b(config, home):
    write_jsonl(home.parent / "b.jsonl", make_rows("b", 13))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_weight, []),
        (change_strategy, []),
        (change_fraction, []),
        (change_template, ["encoded"]),
        (change_length, ["encoded"]),
        (change_what_is_trained, ["encoded"]),
        (change_filter, ["clean"]),
        (change_last_filter, ["clean"]),
        (change_rows_of_b, ["clean", "encoded", "rows"]),
    ],
)
def test_only_stages_that_depend_on_a_change_run_again(config, tmp_path, change, expected):
    first, home = config(), tmp_path / "home"
    first.clean.steps = ["leakage", "length"]
    prepare_data(first)
    before = made_parts(home)
    second = config()
    second.clean.steps = ["leakage", "length"]
    change(second, home)
    prepare_data(second)
    after = made_parts(home)
    assert new_stages(before, after) == expected
    if change is change_rows_of_b:
        untouched = {file for file in before if "rows" in file or "encoded" in file}
        assert len(untouched) > 2
        assert all(after[file] == before[file] for file in untouched), "the rows of a are read and encoded once"


def contents(directory):
    """Return the files without a fingerprint or time in them."""
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name not in ("manifest.json", "report.html", "state.json", "golden.json")
    }


def test_result_does_not_depend_on_the_number_of_processes(config, tmp_path, monkeypatch):
    """Parts of 5 rows in one and two processes, with filters that rewrite rows."""
    monkeypatch.setattr(encode_stage, "CHUNK", 5)
    monkeypatch.setattr(encode_stage, "SMALL_BYTES", 1)
    monkeypatch.setattr(workers, "SMALL", 1)
    result = []
    for number in (1, 2):
        monkeypatch.setenv("SFT_HOME", str(tmp_path / f"home{number}"))
        made_config = config()
        made_config.data.workers, made_config.prepared_dir = number, str(tmp_path / f"out{number}")
        made_config.data.val_fraction = 0.2
        made_config.clean.steps = ["exact_duplicates", "pii", "heuristics"]
        made = prepare_data(made_config)
        result.append((made.manifest["content"], made.manifest["fingerprint"], contents(made.directory)))
    assert result[0][:2] == result[1][:2]
    assert result[0][2].keys() == result[1][2].keys()
    assert [name for name in result[0][2] if result[0][2][name] != result[1][2][name]] == []


def test_policy_for_bad_rows_is_no_input_of_a_stage(config, tmp_path):
    """Dropped rows are reported from the cache when the new policy stops the run."""
    write_jsonl(tmp_path / "a.jsonl", [*make_rows("a", 8), {"instruction": "long", "output": "x" * 900}])
    made_config = config()
    made_config.data.overflow, made_config.trainer.max_length = made_config.data.overflow.drop, 256
    made_config.data.budget = BudgetConfig()
    prepare_data(made_config)
    before = made_parts(tmp_path / "home")
    made_config.data.on_bad_row = OnBadRow.drop
    prepare_data(made_config)
    assert made_parts(tmp_path / "home") == before


def test_row_digest_depends_on_trained_content(config):
    first = prepare_data(config()).manifest
    licensed = config()
    licensed.data.mix["a"].licence = "MIT"
    second = prepare_data(licensed).manifest
    heavier = config()
    heavier.data.mix["a"].weight = 2.0
    third = prepare_data(heavier).manifest
    assert first["fingerprint"] != second["fingerprint"]
    assert first["content"] == second["content"] != third["content"]


def test_order_of_sources_is_an_input(config):
    """The first of two sources with the same rows keeps them."""
    result = []
    for names in ("ab", "ba"):
        made_config = config()
        made_config.data.mix = {name: SourceConfig(path=made_config.data.mix["a"].path) for name in names}
        made_config.clean.steps = ["exact_duplicates"]
        made_config.data.budget, made_config.data.on_bad_row = BudgetConfig(), OnBadRow.drop
        with pytest.raises(SftError, match=f"data.mix.{names[1]}"):
            prepare_data(made_config)
        made_config.clean.exact_duplicates.action = Action.report
        made = prepare_data(made_config)
        result.append((made.manifest["fingerprint"], [made.train.where(0), made.train.sources[0]]))
    assert result[0][0] != result[1][0]
    assert [place for _, place in result] == [["a.jsonl:1", "a"], ["a.jsonl:1", "b"]]


def test_stopped_stream_resumes_with_its_format(config, tmp_path, monkeypatch):
    """The rows of the second block look like documents; they are read in the format of the first row."""
    write_jsonl(tmp_path / "a.jsonl", [*make_rows("a", 4), *({"text": f"Document {i}."} for i in range(4))])

    def read(home, stop):
        monkeypatch.setenv("SFT_HOME", str(tmp_path / home))
        made_config = config()
        source = SourceConfig(path=str(tmp_path / "a.jsonl"), stream=True, max_rows=8, shuffle_buffer=4)
        made_config.data.mix = {"a": source}
        known = making_rows.source_inputs(source, "a", "", 0)
        if stop:
            write_part = row_store.write_rows

            def stopped(file, converted):
                if file.name != "part-00000.arrow":
                    raise KeyboardInterrupt
                return write_part(file, converted)

            with monkeypatch.context() as patched:
                patched.setattr(row_store, "write_rows", stopped)
                with pytest.raises(KeyboardInterrupt):
                    making_rows.convert_source(source, "a", "", 0, known, 1)
        result = making_rows.convert_source(source, "a", "", 0, known, 1)
        return result.format, [(where, error and error.reason) for where, error in result.train.locations()]

    straight = read("straight", False)
    assert straight[0] == "alpaca"
    assert [error is None for _, error in straight[1]] == [True] * 4 + [False] * 4
    assert read("stopped", True) == straight


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 6), st.integers(1, 100))
def test_chunks_bound_rows_and_bytes(sizes, most, most_bytes):
    chosen = np.arange(len(sizes)) * 3
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encode_stage, "CHUNK", most)
        patched.setattr(encode_stage, "CHUNK_BYTES", most_bytes)
        chunks = encode_stage._chunks(chosen, np.array(sizes, np.int64))
    assert np.concatenate([chosen[:0], *chunks]).tolist() == chosen.tolist()
    of = dict(zip(chosen.tolist(), sizes, strict=True))
    weights = [sum(of[row] for row in chunk.tolist()) for chunk in chunks]
    assert all(1 <= len(chunk) <= most for chunk in chunks)
    assert all(weight <= most_bytes or len(chunk) == 1 for chunk, weight in zip(chunks, weights, strict=True))
    for chunk, weight, after in zip(chunks, weights, chunks[1:], strict=False):
        assert len(chunk) == most or weight + of[int(after[0])] > most_bytes


def test_filter_key_depends_on_earlier_filters_and_priorities(config, tmp_path):
    def clean_stages(change):
        made_config = config()
        made_config.clean.steps = ["length", "exact_duplicates"]
        change(made_config)
        prepare_data(made_config)
        return {file.parent.name for file in (tmp_path / "home" / "stages" / "clean").glob("*/found.arrow")}

    def longer(made_config):
        made_config.clean.length.min_answer_words = 2

    first = clean_stages(lambda made_config: None)
    assert len(first) == 2
    assert len(clean_stages(longer) - first) == 2
    assert len(clean_stages(change_priority) - first) == 4


def test_replaced_rows_are_encoded_again(config, tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl", [*make_rows("a", 3), {"instruction": "Mail?", "output": "x@example.org or 192.0.2.17"}]
    )
    shown = []
    for kinds in (["email"], ["ip"]):
        made_config = config()
        made_config.clean.steps, made_config.clean.pii.kinds = ["pii"], kinds
        result = prepare_data(made_config)
        index = [result.train.where(i) for i in range(len(result.train))].index("a.jsonl:4")
        tokenizer = load_tokenizer(str(result.tokenizer_directory))
        text = tokenizer.decode_batch([result.train.tokens(index).input_ids.tolist()])[0]
        shown.append(("example.org" in text, "192.0.2.17" in text))
    assert shown == [(False, True), (True, False)]


def test_interrupted_filter_leaves_no_replaced_rows(tmp_path):
    conversation = Conversation((Message("user", "q"), Message("assistant", "a")), "x:1", "mine")
    with FindingWriter(tmp_path) as writer:
        writer.write(Finding(0, conversation=conversation), 0)
    assert (tmp_path / "replaced.arrow").is_file()
    with FindingWriter(tmp_path) as writer:
        writer.write(Finding(0, "bad"), 0)
    assert [file.name for file in tmp_path.iterdir()] == ["found.arrow"]


def test_dropped_rows_stop_a_later_strict_run(config, tmp_path):
    """The error comes from the cache: nothing is encoded again."""
    write_jsonl(
        tmp_path / "a.jsonl", [*make_rows("a", 8), {"instruction": "What is <|im_end|>?", "output": "A token."}]
    )
    made_config = config()
    made_config.data.sanitize, made_config.data.on_bad_row = False, OnBadRow.drop
    made_config.data.budget = BudgetConfig()
    prepare_data(made_config)
    before = made_parts(tmp_path / "home")
    made_config.data.on_bad_row = OnBadRow.error
    with pytest.raises(SftError, match=r"^a\.jsonl:9: .*<\|im_end\|>"):
        prepare_data(made_config)
    assert made_parts(tmp_path / "home") == before
