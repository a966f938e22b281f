"""Intended and realised shares per source, stage and tag, counted by hand."""

import json

import numpy as np
from mix_pools import pools

from sft_cli.config.schema.data import DataConfig, Order, SourceConfig, StageConfig, StoppingStrategy, Strategy
from sft_cli.data.mixing.epoch_draw import draw_epoch
from sft_cli.data.mixing.mix_report import MAX_VALUES, Tag, build_mix_report, mix_tables

TRAINED = {"a": [4] * 10, "b": [2] * 20}
NO_TAGS = [{}, {}]


def reported(tags=NO_TAGS, **settings):
    mix = {"a": SourceConfig(), "b": SourceConfig()}
    data = DataConfig(**{"mix": mix, **settings})
    result = pools(data, TRAINED)
    return build_mix_report(draw_epoch(data, result, 0), result, tags)


def test_report_of_passes():
    result = reported(mix={"a": SourceConfig(weight=1.5), "b": SourceConfig(epochs=0.5)})
    assert result["of"] == "passes"
    assert result["sources"] == {
        "a": {
            "intended": 0.6,
            "rows": 15,
            "tokens": 120,
            "trained_tokens": 60,
            "share_rows": 0.6,
            "share_tokens": 0.75,
            "share_trained": 0.75,
            "intended_passes": 1.5,
            "passes": 1.5,
            "distinct_rows": 10,
            "available_rows": 10,
        },
        "b": {
            "intended": 0.4,
            "rows": 10,
            "tokens": 40,
            "trained_tokens": 20,
            "share_rows": 0.4,
            "share_tokens": 0.25,
            "share_trained": 0.25,
            "intended_passes": 0.5,
            "passes": 0.5,
            "distinct_rows": 10,
            "available_rows": 20,
        },
    }
    assert json.loads(json.dumps(result)) == result


def test_report_of_trained_token_shares():
    """All 40 tokens of a, and 7 rows of b: 14 tokens for the intended 13.3."""
    result = reported(mix={"a": SourceConfig(weight=3.0), "b": SourceConfig()}, strategy=Strategy.trained_tokens)
    assert result["of"] == "trained tokens"
    shown = {name: list(entry.values())[:7] for name, entry in result["sources"].items()}
    assert shown["a"] == [0.75, 10, 80, 40, 0.588235, 0.740741, 0.740741]
    assert shown["b"] == [0.25, 7, 28, 14, 0.411765, 0.259259, 0.259259]
    assert [entry["intended_passes"] for entry in result["sources"].values()] == [None, None]


def test_report_of_stages():
    stages = [StageConfig(name="first", share=3.0, mix={"b": 1.0}, order=Order.by_length), StageConfig()]
    result = reported(
        strategy=Strategy.equal, stopping_strategy=StoppingStrategy.total_rows, total_rows=16, stages=stages
    )
    assert [(s["name"], s["order"], s["rows"], s["intended"], s["share"]) for s in result["stages"]] == [
        ("first", "by_length", 12, 0.75, 0.75),
        ("2", "random", 4, 0.25, 0.25),
    ]
    assert result["stages"][1]["sources"]["a"]["share_rows"] == 0.5
    assert result["of"] == "rows"
    (epoch, staged) = mix_tables(result)
    assert staged.heading == "stages, intended -> realised"
    assert staged.columns == ("stage", "order", "rows of the epoch", "source", "rows of the stage", "rows")
    assert staged.rows == [
        ("first", "by_length", "75.0% -> 75.0%", "b", "100.0% -> 100.0%", 12),
        ("2", "random", "25.0% -> 25.0%", "a", "50.0% -> 50.0%", 2),
        ("2", "random", "25.0% -> 25.0%", "b", "50.0% -> 50.0%", 2),
    ]
    assert epoch.rows[0][:2] == ("a", "12.5% of rows")


def test_report_of_stages_by_trained_tokens():
    stages = [StageConfig(mix={"b": 1.0}), StageConfig(mix={"a": 1.0, "b": 3.0})]
    mix = {
        "strategy": Strategy.trained_tokens,
        "stopping_strategy": StoppingStrategy.total_rows,
        "total_rows": 28,
        "stages": stages,
    }
    shown = mix_tables(reported(**mix))[1]
    assert shown.columns[4] == "trained tokens of the stage"
    assert shown.rows[1:] == [
        ("2", "random", "50.0% -> 50.0%", "a", "25.0% -> 25.0%", 2),
        ("2", "random", "50.0% -> 50.0%", "b", "75.0% -> 75.0%", 12),
    ]


def test_report_of_tags():
    language = [
        {"language": Tag(("de", "en"), np.array([0] * 3 + [1] * 5 + [-1] * 2, np.int32))},
        {"language": Tag(("en",), np.array([0] * 20, np.int32))},
    ]
    result = reported(language, mix={"a": SourceConfig(weight=2.0), "b": SourceConfig()})
    assert result["tags"] == {
        "language": {
            "en": {"rows": 30, "tokens": 160, "trained_tokens": 80, "share_trained": 0.666667},
            "de": {"rows": 6, "tokens": 48, "trained_tokens": 24, "share_trained": 0.2},
            "(none)": {"rows": 4, "tokens": 32, "trained_tokens": 16, "share_trained": 0.133333},
        }
    }
    assert list(result["tags"]["language"]) == ["en", "de", "(none)"]
    (_, shown) = mix_tables(result)
    assert shown.heading == "by language"
    assert shown.rows == [
        ("en", 30, 160, 80, "66.7%"),
        ("de", 6, 48, 24, "20.0%"),
        ("(none)", 4, 32, 16, "13.3%"),
    ]


def test_mix_report_counts_rows_without_a_tag():
    task = [{"task": Tag(("math",), np.zeros(10, np.int32))}, {}]
    result = reported(task)["tags"]["task"]
    assert {value: counts["rows"] for value, counts in result.items()} == {"math": 10, "(none)": 20}


def test_rare_values_of_a_tag_are_summed():
    values = tuple(f"task {number:02}" for number in range(30))
    tags = [{}, {"task": Tag(values[:20], np.arange(20, dtype=np.int32))}]
    shown = mix_tables(reported(tags, mix={"a": SourceConfig(weight=0.1), "b": SourceConfig()}))[-1]
    assert len(shown.rows) == MAX_VALUES
    assert shown.rows[-1] == ("(2 more)", 2, 12, 6, "13.6%")
    assert [row[0] for row in shown.rows[:2]] == ["task 00", "task 01"]


def test_table_of_sources():
    (epoch,) = mix_tables(reported(mix={"a": SourceConfig(), "b": SourceConfig(weight=0.5)}))
    assert epoch.heading == "an epoch"
    assert epoch.columns == (
        "source", "intended", "of rows", "of tokens", "of trained tokens", "rows", "trained tokens", "passes",
    )  # fmt: skip
    assert epoch.rows == [
        ("a", "1 pass", "50.0%", "66.7%", "66.7%", 10, 40, 1.0),
        ("b", "0.5 passes", "50.0%", "33.3%", "33.3%", 10, 20, 0.5),
    ]
