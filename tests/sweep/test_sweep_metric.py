"""Metrics of members, read from lines of metrics.jsonl."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.sweep.metric import (
    HELD_OUT,
    PROBES,
    STEPS,
    MetricValue,
    SweepMetric,
    metric_curve,
    metric_value,
    parse_metric,
)
from sft_cli.train.run_list import read_metrics


def step(number, loss, **terms):
    return {"step": number, "loss": loss, "terms": {"nll": loss, **terms}, "grad_norm": 10.0 * number}


def evaluation(number, loss):
    return {"step": number, "eval": True, "loss": loss, "perplexity": 2.0, "sources": {"a": loss + 1, "b": None}}


LINES = [
    step(1, 5.0, kl=0.5),
    evaluation(1, 4.0),
    {"step": 1, "retention": {"old": {"value": 0.5}}},
    step(2, 3.0, kl=0.25),
    evaluation(2, 2.0),
    {"step": 2, "retention": {"old": {"value": 0.75}}},
    step(3, None),
    evaluation(3, 2.5),
]


@pytest.mark.parametrize(
    ("name", "mode", "kind", "value", "at"),
    [
        pytest.param("loss", "min", HELD_OUT, 2.0, 2, id="best-evaluation"),
        pytest.param("loss", "max", HELD_OUT, 4.0, 1, id="the-other-end"),
        pytest.param("perplexity", "min", HELD_OUT, 2.0, 1, id="ties-the-first"),
        pytest.param("sources.a", "min", HELD_OUT, 3.0, 2, id="one-source"),
        pytest.param("loss", "min", STEPS, 3.0, 2, id="last-training-that-is-a-number"),
        pytest.param("nll", "min", STEPS, 3.0, 2, id="a-term"),
        pytest.param("kl", "min", STEPS, 0.25, 2, id="a-term-that-is-not-everywhere"),
        pytest.param("grad_norm", "min", STEPS, 30.0, 3, id="of-the-step"),
        pytest.param("retention.old", "max", PROBES, 0.75, 2, id="last-probe"),
    ],
)
def test_value_of_a_member(name, mode, kind, value, at):
    assert metric_value(SweepMetric(name, mode, kind), LINES) == MetricValue(value, at)


@pytest.mark.parametrize("name", ["sources.b", "sources.c"])
def test_unmeasured_metric_has_no_value(name):
    assert metric_value(SweepMetric(name, "min", HELD_OUT), LINES) is None
    assert metric_value(SweepMetric("loss", "min", HELD_OUT), LINES[:1]) is None


def test_metric_curve_has_every_value():
    assert metric_curve(SweepMetric("loss", "min", HELD_OUT), LINES) == [
        MetricValue(4.0, 1),
        MetricValue(2.0, 2),
        MetricValue(2.5, 3),
    ]


def test_reading_metrics_stops_at_an_incomplete_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert list(read_metrics(RunDir(tmp_path).metrics)) == [{"step": 1}, {"step": 2}]
    assert list(read_metrics(RunDir(tmp_path / "nothing").metrics)) == []


PROBE = "trainer.retention.probes.old={path: x.jsonl, metric: exact_match}"


@pytest.mark.parametrize(
    ("asked", "words", "metric"),
    [
        pytest.param((None, None), [], SweepMetric("loss", "min", HELD_OUT), id="held-out-by-default"),
        pytest.param(
            (None, None),
            ["data.mix.quickstart.validation_path=null", "data.val_fraction=0"],
            SweepMetric("loss", "min", STEPS),
            id="training-without-held-out-rows",
        ),
        pytest.param(("loss", "max"), [], SweepMetric("loss", "max", HELD_OUT), id="explicit"),
        pytest.param(("tokens_per_second", None), [], SweepMetric("tokens_per_second", "max", STEPS), id="speed"),
        pytest.param(("kl", None), ["loss.kl=0.1"], SweepMetric("kl", "min", STEPS), id="a-term-that-is-on"),
        pytest.param(("retention.old", None), [PROBE], SweepMetric("retention.old", "max", PROBES), id="exact-match"),
    ],
)
def test_parse_metric(asked, words, metric):
    config = compose(["recipe=quickstart", "eval.compare_after_training=false", *words])
    assert parse_metric(*asked, [config]) == metric


def test_unrecorded_metric_is_refused_before_any_run():
    config = compose(["recipe=quickstart"])
    with pytest.raises(SftError) as caught:
        parse_metric("perplexety", None, [config])
    assert str(caught.value) == (
        "--metric perplexety: no member of the sweep records it\n  fix: did you mean --metric perplexity? metrics:"
        " loss, perplexity, sources.quickstart, nll, router, grad_norm, seconds, tokens_per_second, memory"
    )
