"""Scores from a column: thresholds, the best of each source, ties, and rows without a score."""

import random

import pytest

from sft_cli.clean import quality
from sft_cli.config.schema.clean import QualityConfig
from sft_cli.errors import SftError
from tests.clean.helpers import chat, drop_reasons, run_filter


def scored(text: str, score: float | None, source: str = "a"):
    return chat(text, text, where=f"{source}:{text}", source=source, scores={} if score is None else {"quality": score})


def kept(rows, config, held_out=frozenset()) -> list[str]:
    result, _ = run_filter(quality.find_quality, rows, config, held_out)
    return [row.where for i, row in enumerate(rows) if i not in drop_reasons(result)]


ROWS = [
    scored("x", 4.5),
    scored("y", 2),
    scored("z", None),
    scored("x", 4.5, "b"),
    scored("y", 1, "b"),
    scored("z", 5, "b"),
]


def test_threshold():
    result, report = run_filter(quality.find_quality, ROWS, QualityConfig(min_score=4.5))
    assert [(one.row, one.reason, one.detail, one.score) for one in result] == [
        (1, "score too low", "quality 2, below 4.5", 2.0),
        (2, "no score", "the row has no quality", None),
        (4, "score too low", "quality 1, below 4.5", 1.0),
    ]
    assert report == {
        "score": "quality",
        "reasons": {"no score": 1, "score too low": 2, "not among the best": 0},
        "quartiles": [1.0, 2.0, 4.5, 4.5, 5.0],
    }


def test_best_rows_of_each_source_are_kept():
    result, _ = run_filter(quality.find_quality, ROWS, QualityConfig(top_k=1, keep_unscored=True))
    assert [(one.row, one.reason, one.detail) for one in result] == [
        (1, "not among the best", "quality 2, not among the 1 best of its source"),
        (3, "not among the best", "quality 4.5, not among the 1 best of its source"),
        (4, "not among the best", "quality 1, not among the 1 best of its source"),
    ]


def test_threshold_applies_before_the_count():
    assert kept(ROWS, QualityConfig(min_score=2, top_k=2)) == ["a:x", "a:y", "b:x", "b:z"]
    assert kept(ROWS, QualityConfig(min_score=4.6, top_k=2)) == ["b:z"]


def test_held_out_rows_are_neither_selected_nor_counted():
    assert kept(ROWS, QualityConfig(top_k=1), frozenset({1, 2, 5})) == ["a:x", "a:y", "a:z", "b:x", "b:z"]


def test_equal_scores_are_selected_by_content():
    rows = [scored(f"row {i}", i % 3, "ab"[i % 2]) for i in range(60)]
    wanted = sorted(kept(rows, QualityConfig(top_k=7)))
    assert len(wanted) == 14
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert sorted(kept(rows, QualityConfig(top_k=7))) == wanted


def test_score_without_any_row_is_an_error():
    with pytest.raises(SftError) as error:
        run_filter(quality.find_quality, ROWS, QualityConfig(score="qualty", min_score=1))
    assert str(error.value) == (
        "clean.quality.score=qualty: no row has the score 'qualty'; the rows have quality\n"
        "  fix: did you mean quality? Otherwise set its column: data.mix.a.scores.qualty=COLUMN"
    )
    with pytest.raises(SftError) as error:
        run_filter(quality.find_quality, [chat("a", "b")], QualityConfig(min_score=1))
    assert str(error.value) == (
        "clean.quality.score=quality: no row has the score 'quality'\n"
        "  fix: set its column: data.mix.rows.scores.quality=COLUMN"
    )
    assert run_filter(quality.find_quality, [], QualityConfig(min_score=1))[0] == []


def test_step_without_effect_is_refused():
    with pytest.raises(SftError) as error:
        quality.find_quality(None, QualityConfig())  # pyright: ignore[reportArgumentType]
    assert str(error.value) == (
        "clean.quality: neither min_score nor top_k is set, so no row would be dropped\n"
        "  fix: clean.quality.top_k=1000, or clean.quality.min_score=NUMBER, or remove quality from clean.steps"
    )
