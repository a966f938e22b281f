"""Parts of the page: statistics, selections, histograms and totals, by hand and as properties."""

import json

import numpy as np
import pytest
from datasets import load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.report import gallery, ledger_view, svg
from sft_cli.report.sections import mix, stages, tags, totals
from sft_cli.report.split_stats import SplitStats

SEED = "0123456789abcdef" * 4


def line(where, *, source="a", fate="used", reason=None, truncated=0, **more):
    return {
        "where": where, "source": source, "split": "train", "fate": fate, "reason": reason,
        "detail": reason and f"{reason} here", "examples": 1, "copies": 1, "tokens": 9, "trained_tokens": 3,
        "truncated_messages": truncated, **more,
    }  # fmt: skip


def write_ledger(file, lines):
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines), encoding="utf-8")
    return file


def test_split_stats_count_rows(prepared):
    survey, rows = SplitStats(prepared, "train"), load_from_disk(str(prepared))["train"]
    assert survey.lengths.tolist() == [len(ids) for ids in rows["input_ids"]]
    assert survey.trained.tolist() == [sum(label != -100 for label in labels) for labels in rows["labels"]]
    assert [survey.sources[i] for i in survey.source_of] == list(rows["source"])
    assert len(survey) == len(rows) > 30
    row = survey.row(3)
    assert (row.where, row.ids, row.num_trained) == (rows[3]["where"], rows[3]["input_ids"], survey.trained[3])
    assert row.weights == (1.0,)


def test_split_stats_do_not_depend_on_chunk_size(prepared, monkeypatch):
    whole = SplitStats(prepared, "train")
    monkeypatch.setattr("sft_cli.report.split_stats.CHUNK", 7)
    chunked = SplitStats(prepared, "train")
    np.testing.assert_array_equal(chunked.lengths, whole.lengths)
    np.testing.assert_array_equal(chunked.trained, whole.trained)
    np.testing.assert_array_equal(chunked.source_of, whole.source_of)
    place = ("plain", whole.where(20))
    assert chunked.find({place}) == whole.find({place}) == {place: [20]}
    assert chunked.find({("mine", whole.where(20))}) == {}


def test_empty_split(prepared):
    survey = SplitStats(prepared, "validation")
    assert (len(survey), survey.sources, survey.rows_of_source("mine").tolist()) == (0, [], [])


def test_top_rows_by_kind(prepared):
    survey, rows = SplitStats(prepared, "train"), load_from_disk(str(prepared))["train"]
    plain = [i for i, source in enumerate(rows["source"]) if source == "plain"]
    by_length = sorted(plain, key=lambda i: len(rows[i]["input_ids"]))

    def best(kind, number):
        return gallery.top_rows(survey, ["plain"], kind, number, SEED)

    assert best("longest", 2) == by_length[::-1][:2]
    assert best("shortest", 1) == by_length[:1]
    shares = {i: np.mean([label != -100 for label in rows[i]["labels"]]) for i in plain}
    assert best("lowest trained share", 1) == [min(plain, key=shares.get)]
    assert sorted(best("random", 100)) == plain
    assert best("random", 3) == best("random", 3)
    assert best("random", 3) != gallery.top_rows(survey, ["plain"], "random", 3, "f" * 64)


def test_most_truncated_rows_match_the_ledger(prepared):
    survey = SplitStats(prepared, "train")
    account = ledger_view.sample_ledger(prepared / "ledger.jsonl", SEED)
    (index,) = gallery.truncated_examples(survey, account)
    assert survey.where(index).endswith("talk.jsonl:3")


def test_gallery_shows_the_largest_sources(prepared, monkeypatch):
    """The gallery states how many sources it omits."""
    monkeypatch.setattr(gallery, "MAX_SOURCES", 1)
    train, validation = SplitStats(prepared, "train"), SplitStats(prepared, "validation")
    choice = gallery.select_examples(train, validation, ledger_view.LedgerSample(), SEED)
    assert {train.sources[train.source_of[index]] for _, index in choice.kinds} == {"plain"}
    assert choice.sources_left_out == 2


def test_examples_of_one_row_are_shown_once(prepared):
    """A row with many examples takes only one place in the gallery."""
    survey = SplitStats(prepared, "train")
    order = [4, 4, 4, 5, 4, 6]
    assert gallery._from_distinct_rows(survey, order, 3) == [4, 5, 6]


def test_sample_ledger(tmp_path):
    lines = [
        line("r:1", fate="dropped", reason="too long"),
        line("r:2", truncated=2),
        line("r:3", fate="dropped", reason="duplicate", filter="duplicates"),
        line("r:4", truncated=7),
        line('r", "fate": "dropped"', fate="used"),
        line("s:1", source="b", truncated=1),
    ]
    account = ledger_view.sample_ledger(write_ledger(tmp_path / "l.jsonl", lines), SEED)
    assert {reason: [one["where"] for one in kept] for reason, kept in account.dropped.items()} == {
        "too long": ["r:1"],
        "duplicate": ["r:3"],
    }
    assert account.filters == {"duplicate": "duplicates"}
    assert {source: [one["where"] for one in kept] for source, kept in account.truncated.items()} == {
        "a": ["r:4", "r:2"],
        "b": ["s:1"],
    }
    few = ledger_view.sample_ledger(tmp_path / "l.jsonl", SEED, max_truncated=1)
    assert [one["where"] for one in few.truncated["a"]] == ["r:4"]


def test_sample_ledger_samples_uniformly(tmp_path):
    """Over many seeds, every row is sampled about equally often."""
    lines = [line(f"r:{i}", fate="dropped", reason="bad") for i in range(20)]
    file = write_ledger(tmp_path / "l.jsonl", lines)
    counts = dict.fromkeys(range(20), 0)
    for seed in range(400):
        kept = ledger_view.sample_ledger(file, str(seed)).dropped["bad"]
        assert len(kept) == ledger_view.MAX_PER_REASON
        numbers = [int(one["where"].removeprefix("r:")) for one in kept]
        assert numbers == sorted(numbers)
        for number in numbers:
            counts[number] += 1
    assert min(counts.values()) > 60
    assert max(counts.values()) < 145


@given(st.lists(st.tuples(st.text(max_size=8), st.sampled_from("ab")), unique=True, max_size=12), st.randoms())
def test_lines_are_found_by_source_and_location(tmp_path_factory, places, chance):
    """This holds for any file names."""
    file = write_lines_safely(tmp_path_factory.mktemp("ledger") / "l.jsonl", places)
    wanted = {place for place in places if chance.random() < 0.5}
    result = ledger_view.find_lines(file, {(source, where) for where, source in wanted})
    assert {(one["where"], one["source"]) for one in result.values()} == wanted


def write_lines_safely(file, places):
    text = "".join(json.dumps(line(where, source=source), ensure_ascii=False) + "\n" for where, source in places)
    file.write_bytes(text.encode("utf-8"))
    return file


def test_find_lines_with_json_in_the_location(tmp_path):
    places = [('a", "source": "b', "a"), ('x", ', "a"), ("\\", "b")]
    file = write_lines_safely(tmp_path / "l.jsonl", places)
    assert len(ledger_view.find_lines(file, {(source, where) for where, source in places})) == 3


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60), st.sampled_from([None, 64, 2048]))
def test_every_example_is_in_one_bar(lengths, max_length):
    lengths = np.array(lengths, dtype=np.int32)
    low, high = int(lengths.min()), int(lengths.max())
    drawn = svg.length_histogram(lengths, low, high, max_length)
    assert sum(bar.count for bar in drawn.bars) == len(lengths)
    for bar in drawn.bars:
        assert 0 <= bar.x <= svg.WIDTH
        assert 0 <= bar.y <= svg.HEIGHT
        assert bar.y + bar.height == pytest.approx(svg.HEIGHT)
        assert bar.count == ((lengths >= bar.low) & (lengths < bar.high)).sum()
    assert max(bar.height for bar in drawn.bars) == svg.HEIGHT
    assert all(0 <= at <= svg.WIDTH for at, _ in drawn.ticks)
    assert (drawn.line is None) == (max_length is None)
    if max_length is not None:
        assert not [bar for bar in drawn.bars if bar.low <= max_length < bar.high - 1]


def test_histogram_line_matches_the_axis():
    drawn = svg.length_histogram(np.array([1, 1024], dtype=np.int32), 1, 1024, 512)
    assert {label: at for at, label in drawn.ticks}["64"] < drawn.line
    on_scale = svg.length_histogram(np.array([1, 4096], dtype=np.int32), 1, 4096, 1024)
    assert {label: at for at, label in on_scale.ticks}["1k"] == on_scale.line


@given(st.lists(st.floats(0, 1), max_size=40))
def test_every_share_is_in_one_bar(shares):
    drawn = svg.share_histogram(np.array(shares))
    assert sum(bar.count for bar in drawn.bars) == len(shares)
    assert [label for _, label in drawn.ticks] == ["0%", "25%", "50%", "75%", "100%"]


def test_totals_from_a_manifest(prepared):
    manifest = json.loads((prepared / "manifest.json").read_text("utf-8"))
    result = {name: value for name, value, _ in totals(manifest)}
    assert (result["rows read"], result["used"], result["dropped"], result["truncated"]) == ("39", "38", "1", "1")


def test_manifest_without_a_mix_has_no_shares():
    assert (mix({}), stages({}), tags({})) == ([], [], [])


def test_page_has_no_section_for_a_single_stage():
    stage = {"name": "1", "order": "random", "rows": 9, "intended": 1.0, "share": 1.0, "sources": {}}
    assert stages({"mix": {"of": "rows", "stages": [stage]}}) == []
    assert len(stages({"mix": {"of": "rows", "stages": [stage, stage]}})) == 2


@pytest.mark.parametrize(
    ("of", "passes", "words", "column"),
    [
        ("rows", None, "50.0% of rows", 0),
        ("trained tokens", None, "50.0% of trained tokens", 2),
        ("passes", 1.0, "1 pass", 0),
        ("passes", 2.5, "2.5 passes", 0),
    ],
)
def test_intended_share_is_shown_in_its_unit(of, passes, words, column):
    counts = dict.fromkeys(("rows", "tokens", "trained_tokens", "share_rows", "share_tokens", "share_trained"), 1)
    source = {"intended": 0.5, "intended_passes": passes, **counts, "passes": 2.0}
    (row,) = mix({"mix": {"of": of, "sources": {"a": source}}})
    assert row["intended"] == words
    assert [cell["intended"] for cell in row["cells"]] == [0.5 if i == column else None for i in range(3)]
