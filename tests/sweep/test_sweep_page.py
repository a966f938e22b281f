"""The page of a sweep: texts, no external resources, and positions in its charts."""

import json
import re
from dataclasses import replace

import pytest

from sft_cli.report.axes import HEIGHT, WIDTH, axis_scale, tick_label
from sft_cli.sweep.charts import MARGIN, key_effect, metric_curves
from sft_cli.sweep.metric import STEPS, MetricValue, SweepMetric
from sft_cli.sweep.page import write_sweep_page
from sft_cli.sweep.plan import Member
from tests.sweep.helpers import MEMBERS, outcomes, swept

HOSTILE = "</style><script>alert(1)</script>\x1b[2J\u202e"


def test_page_lists_every_member_and_loads_nothing(tmp_path):
    record = swept(tmp_path)
    text = write_sweep_page(record, outcomes(record)).read_text()

    rows = re.findall(r'<th scope="row">(\d+)</th>', text)
    assert rows == ["003", "002", "001", "004"]
    assert text.count('<circle class="dot') == 2 * 3
    assert text.count("<polyline") == 2 + 3 + 3
    assert re.findall(r"<figcaption>(.* over optimizer steps)", text) == [
        "held-out loss over optimizer steps",
        "training loss over optimizer steps",
    ]
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert "step 2: training diverged" in text


def test_training_loss_is_drawn_once(tmp_path):
    record = replace(swept(tmp_path), metric=SweepMetric("loss", "min", STEPS))
    text = write_sweep_page(record, outcomes(record)).read_text()
    assert re.findall(r"<figcaption>(.* over optimizer steps)", text) == ["training loss over optimizer steps"]


def test_exact_match_column_appears_if_measured(tmp_path):
    """Results of sft eval replace those of the run; without either, the column is absent."""
    record = swept(tmp_path)
    assert "exact match" not in write_sweep_page(record, outcomes(record)).read_text()
    first, second = record.run(MEMBERS[0]), record.run(MEMBERS[1])
    first.tuned_scores.write_text(json.dumps({"exact_match": 0.25, "loss": 1.0}))
    second.tuned_scores.write_text(json.dumps({"exact_match": 0.25, "loss": 1.0}))
    second.eval.mkdir()
    (second.eval / "heldout.json").write_text(json.dumps({"metrics": {"exact_match": 0.875}}))
    text = write_sweep_page(record, outcomes(record)).read_text()
    assert "exact match" in text
    assert (text.count("25.0%"), text.count("87.5%")) == (1, 1)


def test_a_short_value_is_not_broken(tmp_path):
    text = write_sweep_page(swept(tmp_path), outcomes(swept(tmp_path / "again"))).read_text()
    assert '<code class="short">1e-3</code>' in text
    assert ".short { white-space: nowrap; }" in text


def test_untrusted_texts_are_escaped(tmp_path):
    """Values, typed words and lines of a log can come from anyone."""
    record = swept(tmp_path, words=("recipe=quickstart", HOSTILE))
    hostile = Member(1, MEMBERS[0].name, (HOSTILE, "4"))
    found = {hostile if member.number == 1 else member: one for member, one in outcomes(record).items()}
    found[MEMBERS[3]] = replace(found[MEMBERS[3]], error=HOSTILE)
    record = replace(record, members=(hostile, *MEMBERS[1:]))

    text = write_sweep_page(record, found).read_text()

    assert "<script" not in text
    assert text.count("</style>") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") >= 3


def test_page_of_a_sweep_without_finished_members(tmp_path):
    record = swept(tmp_path)
    for member in MEMBERS[:3]:
        record.run(member).adapter.rmdir()
        record.run(member).metrics.unlink()
    text = write_sweep_page(record, outcomes(record)).read_text()
    assert "0 of 4" in text
    assert "<polyline" not in text


@pytest.mark.parametrize(
    ("low", "high", "places", "labels"),
    [
        pytest.param(0.0, 10.0, {0.0: 0.0, 5.0: 50.0, 10.0: 100.0}, ["0", "5", "10"], id="round-numbers"),
        pytest.param(1.0, 1000.0, {1.0: 0.0, 10.0: 33.3, 1000.0: 100.0}, ["1", "10", "100", "1000"], id="decades"),
        pytest.param(2.0, 2.0, {2.0: 50.0}, ["1.5", "2", "2.5"], id="one-value"),
        pytest.param(0.25, 0.5, {0.25: 0.0, 0.375: 50.0}, ["0.3", "0.4", "0.5"], id="fractions"),
    ],
)
def test_axis_scale(low, high, places, labels):
    found = axis_scale(low, high, 100)
    assert {value: found.position(value) for value in places} == places
    assert [label for _, label in found.ticks] == labels
    assert axis_scale(low, high, 100, upwards=True).position(high) in (0.0, 50.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (12000, "12k"), (0, "0"), (-3e6, "-3e6"), (5e30, "5e30")],
)
def test_tick_labels_are_short(value, text):
    assert tick_label(value) == text


def test_values_of_a_key_are_sorted_and_their_medians_joined():
    """1e-2 was typed before 1e-3; words follow numbers. Values at 1e-3: 1 and 3, so 2 is in the middle."""
    values = dict(zip(MEMBERS, ("none", "1e-3", "1e-2", "1e-3"), strict=True))
    found = key_effect("key", values, dict(zip(MEMBERS, (1.0, 1.0, 3.0, 3.0), strict=True)), MEMBERS[1])

    assert found is not None
    assert found.columns == [(MARGIN, "1e-3"), (WIDTH / 2, "1e-2"), (WIDTH - MARGIN, "none")]
    assert found.middles == [(MARGIN, HEIGHT / 2), (WIDTH / 2, 0.0), (WIDTH - MARGIN, HEIGHT)]
    assert [(dot.member.number, dot.x, dot.y, dot.best) for dot in found.dots] == [
        (1, WIDTH - MARGIN, HEIGHT, False),
        (3, WIDTH / 2, 0.0, False),
        (4, MARGIN, 0.0, False),
        (2, MARGIN, HEIGHT, True),
    ]


def test_key_with_one_finished_value_has_no_chart():
    values = dict.fromkeys(MEMBERS, "1") | {MEMBERS[3]: "2"}
    assert key_effect("key", values, {MEMBERS[0]: 1.0, MEMBERS[1]: 2.0}, None) is None


def test_axis_steps_are_equally_spaced():
    """This holds for a thousand steps as for ten."""
    found = metric_curves({MEMBERS[0]: [MetricValue(1.0, step) for step in (1, 500, 999)]}, None)
    assert found is not None
    assert [float(point.split(",")[0]) for point in found.lines[0].points.split()] == [0.0, WIDTH / 2, WIDTH]


def test_long_curves_are_downsampled_with_their_last_value():
    course = [MetricValue(1.0 / step, step) for step in range(1, 1001)]
    found = metric_curves({MEMBERS[0]: course, MEMBERS[1]: course[:1]}, None)
    assert found is not None
    (line,) = found.lines
    points = line.points.split(" ")
    assert len(points) <= 201
    assert points[-1] == f"{WIDTH:.1f},{HEIGHT:.1f}"
    assert metric_curves({MEMBERS[0]: course[:1]}, None) is None
