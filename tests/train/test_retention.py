"""The guard against forgetting: its measurements, stops and errors before training."""

import json
import math

import pytest
import torch

from sft_cli.config.schema.trainer import ProbeConfig, ProbeMetric
from sft_cli.merge.card_figures import run_results
from sft_cli.train.monitoring.retention import ProbeChange, RetentionFailed, stop_message
from sft_cli.train.monitoring.retention_probes import RetentionProbe


def test_the_base_value_equals_plain_transformers(retention_run, questions):
    from transformers import AutoModelForCausalLM

    guard, _, (probe,) = retention_run.guard(f"probes.words.path={questions}", "probes.words.max_rows=3")
    guard.measure_base()

    plain = AutoModelForCausalLM.from_pretrained(retention_run.base, dtype=torch.float32)
    nats, trained = 0.0, 0
    for index in range(3):
        tokens = probe.split.tokens(index)
        ids = torch.from_numpy(tokens.input_ids)[None]
        labels = torch.where(torch.from_numpy(tokens.weights)[None] > 0, ids, -100)
        number = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += plain(input_ids=ids, labels=labels).loss.item() * number
        trained += number
    (kept,) = json.loads((retention_run.run.path / "retention.json").read_text().strip()).values()
    assert kept["value"] == pytest.approx(nats / trained, abs=1e-5)
    assert (kept["metric"], kept["examples"]) == ("loss", 3)
    assert [probe.split.where(index) for index in range(4)] == [f"asked.jsonl:{n}" for n in (1, 2, 3, 4)]


def test_a_probe_below_its_limit_stops_the_run(retention_run, questions, capsys):
    guard, model, _ = retention_run.guard(f"probes.words.path={questions}", "probes.words.max_drop=0.02", "stop=true")
    guard.measure_base()
    assert guard.check(1, retention_run.record)
    assert guard.failure == ""

    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    capsys.readouterr()
    assert not guard.check(2, retention_run.record)

    first, second = (line["retention"]["words"] for line in retention_run.lines())
    assert [line["step"] for line in retention_run.lines()] == [1, 2]
    assert first == {"metric": "loss", "value": first["base"], "base": first["base"], "worse": 0.0, "max_drop": 0.02}
    assert second["worse"] == pytest.approx((second["value"] - second["base"]) / second["base"])
    assert second["worse"] > 0.02
    assert guard.failure == f"probe words is {second['worse']:.1%} worse than the base, 2.0% is allowed"
    output = capsys.readouterr().out
    assert "retention after step 2" in output
    assert all(word in output for word in ("words", f"{second['base']:.4f}", f"{second['value']:.4f}", "too much"))


def test_without_stop_the_guard_only_reports(retention_run, questions):
    guard, model, _ = retention_run.guard(f"probes.words.path={questions}", "probes.words.max_drop=0")
    guard.measure_base()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)

    assert guard.check(1, retention_run.record)
    assert guard.failure


def test_a_nan_value_stops_the_run(retention_run, questions):
    guard, model, _ = retention_run.guard(f"probes.words.path={questions}", "stop=true")
    guard.measure_base()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)

    assert not guard.check(1, retention_run.record)
    assert retention_run.lines()[0]["retention"]["words"]["value"] is None


def test_exact_match_probe(retention_run):
    from transformers import AutoModelForCausalLM

    file = retention_run.file(
        "answer.jsonl", [{"prompt": "question", "completion": "yes"}, {"prompt": "b", "completion": "c"}]
    )
    guard, model, (probe,) = retention_run.guard(
        f"probes.yes.path={file}", "probes.yes.metric=exact_match", "probes.yes.max_rows=1", "stop=true"
    )
    tokens = probe.split.tokens(0)
    ids = torch.from_numpy(tokens.input_ids)[None]
    labels = torch.where(torch.from_numpy(tokens.weights)[None] > 0, ids, -100)
    untrained = {name: value.clone() for name, value in model.state_dict().items()}
    plain = AutoModelForCausalLM.from_pretrained(retention_run.base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=5e-3)
    for _ in range(30):
        plain(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(plain.state_dict())

    guard.measure_base()
    assert json.loads((retention_run.run.path / "retention.json").read_text())["yes"]["value"] == 1.0
    model.load_state_dict(untrained)
    assert not guard.check(5, retention_run.record)
    assert guard.failure == "probe yes is 100.0% worse than the base, 5.0% is allowed"


def test_a_resumed_run_measures_only_changed_probes_on_the_base(retention_run, questions, capsys):
    guard, _, _ = retention_run.guard(f"probes.words.path={questions}", f"probes.rest.path={questions}")
    guard.measure_base()
    file = retention_run.run.path / "retention.json"
    kept = json.loads(file.read_text())
    assert kept["words"] == kept["rest"]
    file.write_text(json.dumps({name: {**entry, "value": 7.0} for name, entry in kept.items()}))
    capsys.readouterr()

    again, _, _ = retention_run.guard(
        f"probes.words.path={questions}", f"probes.rest.path={questions}", "probes.rest.max_rows=2"
    )
    again.measure_base()

    now = json.loads(file.read_text())
    assert now["words"]["value"] == 7.0
    assert (now["rest"]["examples"], now["rest"]["value"] != 7.0) == (2, True)
    output = capsys.readouterr().out
    assert "retention rest: loss" in output
    assert "retention words" not in output


def test_a_run_that_the_guard_stopped_stays_stopped_until_its_limits_change(retention_run, questions):
    words = (f"probes.words.path={questions}", "probes.words.max_drop=0", "stop=true")
    guard, model, _ = retention_run.guard(*words)
    guard.measure_base()
    guard.check_saved_step(0)  # nothing was measured yet
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    assert not guard.check(2, retention_run.record)
    retention_run.record(3, {})

    again, _, _ = retention_run.guard(*words)
    again.measure_base()
    with pytest.raises(RetentionFailed) as caught:
        again.check_saved_step(2)
    assert str(caught.value) == guard.failure
    assert [line["step"] for line in retention_run.lines()] == [2]
    for words in (("probes.words.max_drop=0", "stop=false"), ("probes.words.max_drop=900", "stop=true")):
        other, _, _ = retention_run.guard(f"probes.words.path={questions}", *words)
        other.measure_base()
        other.check_saved_step(2)


def test_a_recorded_nan_stops_a_resumed_run(retention_run, questions):
    guard, _, _ = retention_run.guard(f"probes.words.path={questions}", "stop=true")
    guard.measure_base()
    retention_run.record(4, {"words": {"value": None}})

    with pytest.raises(RetentionFailed):
        guard.check_saved_step(4)


def test_a_probe_that_cannot_fall_gives_a_warning(retention_run, questions, capsys):
    guard, _, _ = retention_run.guard(f"probes.words.path={questions}", "probes.words.metric=exact_match")
    guard.measure_base()

    assert (
        "warning: probe words cannot fall by more than its max_drop, so it has no effect\n" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("metric", "before", "now", "worse"),
    [
        ("loss", 2.0, 2.1, 0.05),
        ("loss", 2.0, 1.0, -0.5),
        ("loss", 0.0, 0.1, math.inf),
        ("exact_match", 0.8, 0.6, 0.2),
        ("exact_match", 0.0, 0.3, -0.3),
    ],
)
def test_drop_is_relative_for_loss_and_absolute_for_exact_match(retention_run, questions, metric, before, now, worse):
    (probe,) = retention_run.probes(f"probes.words.path={questions}")
    config = ProbeConfig(metric=ProbeMetric(metric), max_drop=0.1)
    change = ProbeChange(RetentionProbe("words", config, probe.split, 1, ""), before, now)

    assert change.drop == pytest.approx(worse)
    assert change.is_allowed is (worse <= 0.1)


def test_stop_message():
    assert stop_message("runs/a", 40, "probe math is 12.0% worse than the base, 5.0% is allowed") == (
        "stopped   after step 40, saved, without a result: probe math is 12.0% worse than the base, 5.0% is allowed\n"
        "next      sft train --resume runs/a trainer.retention.stop=false to continue anyway,"
        " or a new run with a smaller trainer.lr or a replay source"
    )


def test_a_model_card_ignores_retention_lines(retention_run, questions):
    guard, _, _ = retention_run.guard(f"probes.words.path={questions}")
    guard.measure_base()
    retention_run.run.metrics.write_text(json.dumps({"step": 1, "loss": 2.0, "trained_tokens": 7}) + "\n")
    guard.check(1, retention_run.record)

    assert run_results(retention_run.run) == {"steps": 1, "tokens trained on": 7, "training loss of the last step": 2.0}
