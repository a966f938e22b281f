"""The guard against forgetting: what it measures, when it stops, and what it tells before training."""

import json
import math

import pytest
import torch
from accelerate import Accelerator

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.compose import compose
from sft_cli.config.schema.trainer import ProbeConfig, ProbeMetric
from sft_cli.errors import SftError
from sft_cli.merge.card import run_results
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.prepare.prepare import prepare_data
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.retention import ProbeChange, RetentionFailed, RetentionGuard, stop_message
from sft_cli.train.monitoring.retention_probes import RetentionProbe, prepare_probes


class Place:
    """A run on the tiny model, up to where training would begin."""

    def __init__(self, directory, base, rows) -> None:
        self.directory, self.base, self.rows = directory, base, rows
        self.run = RunDir(directory / "run")
        self.run.path.mkdir()

    def config(self, *words: str):
        """The config of a run, trained on the rows, with these settings below trainer.retention."""
        return compose(
            [
                "data=local",
                f"data.mix.local.path={self.rows}",
                "data.val_fraction=0.2",
                f"model.path={self.base}",
                "template=plain",
                "trainer.max_length=256",
                "speed.tokens_per_micro_batch=256",
                "eval.max_new_tokens=8",
                *(f"trainer.retention.{word}" for word in words),
            ]
        )

    def file(self, name: str, lines: list[dict]) -> str:
        file = self.directory / name
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(file)

    def probes(self, *words: str) -> list[RetentionProbe]:
        config = self.config(*words)
        return prepare_probes(config, prepare_data(config).tokenizer_directory)

    def guard(self, *words: str) -> tuple[RetentionGuard, torch.nn.Module, list[RetentionProbe]]:
        from transformers import AutoModelForCausalLM

        config = self.config(*words)
        tokenizer = prepare_data(config).tokenizer_directory
        probes = prepare_probes(config, tokenizer)
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        loss_model, _ = build_loss_model(model, 64)
        accelerator = Accelerator(cpu=True)
        guard = RetentionGuard(config, self.run, loss_model, accelerator, load_tokenizer(str(tokenizer)), [2], probes)
        return guard, model, probes

    def record(self, step: int, values) -> None:
        """What the loop's log does with it."""
        with self.run.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "retention": values}, allow_nan=False) + "\n")

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.run.metrics.read_text().splitlines()]


@pytest.fixture
def place(tmp_path, base, rows, monkeypatch) -> Place:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return Place(tmp_path, base, rows)


@pytest.fixture
def asked(place) -> str:
    """A file of four questions."""
    return place.file("asked.jsonl", [{"prompt": f"say {i}", "completion": "word " * (i + 1)} for i in range(4)])


def test_the_base_is_what_plain_transformers_computes_alone(place, asked):
    from transformers import AutoModelForCausalLM

    guard, _, (probe,) = place.guard(f"probes.words.path={asked}", "probes.words.max_rows=3")
    guard.measure_base()

    plain = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.float32)
    nats, trained = 0.0, 0
    for index in range(3):
        tokens = probe.split.tokens(index)
        ids = torch.from_numpy(tokens.input_ids)[None]
        labels = torch.where(torch.from_numpy(tokens.weights)[None] > 0, ids, -100)
        number = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += plain(input_ids=ids, labels=labels).loss.item() * number
        trained += number
    (kept,) = json.loads((place.run.path / "retention.json").read_text().strip()).values()
    assert kept["value"] == pytest.approx(nats / trained, abs=1e-5)
    assert (kept["metric"], kept["examples"]) == ("loss", 3)
    assert [probe.split.where(index) for index in range(4)] == [f"asked.jsonl:{n}" for n in (1, 2, 3, 4)]


def test_a_probe_that_gets_worse_stops_the_run(place, asked, capsys):
    guard, model, _ = place.guard(f"probes.words.path={asked}", "probes.words.max_drop=0.02", "stop=true")
    guard.measure_base()
    assert guard.check(1, place.record)
    assert guard.failure == ""

    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    capsys.readouterr()
    assert not guard.check(2, place.record)

    first, second = (line["retention"]["words"] for line in place.lines())
    assert [line["step"] for line in place.lines()] == [1, 2]
    assert first == {"metric": "loss", "value": first["base"], "base": first["base"], "worse": 0.0, "max_drop": 0.02}
    assert second["worse"] == pytest.approx((second["value"] - second["base"]) / second["base"])
    assert second["worse"] > 0.02
    assert guard.failure == f"probe words is {second['worse']:.1%} worse than the base, 2.0% is allowed"
    said = capsys.readouterr().out
    assert "retention after step 2" in said
    assert all(word in said for word in ("words", f"{second['base']:.4f}", f"{second['value']:.4f}", "too much"))


def test_without_stop_it_only_tells(place, asked):
    guard, model, _ = place.guard(f"probes.words.path={asked}", "probes.words.max_drop=0")
    guard.measure_base()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)

    assert guard.check(1, place.record)
    assert guard.failure


def test_a_value_that_is_no_number_is_too_bad(place, asked):
    guard, model, _ = place.guard(f"probes.words.path={asked}", "stop=true")
    guard.measure_base()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)

    assert not guard.check(1, place.record)
    assert place.lines()[0]["retention"]["words"]["value"] is None


def test_answers_count_where_the_model_gives_them(place):
    from transformers import AutoModelForCausalLM

    file = place.file("answer.jsonl", [{"prompt": "question", "completion": "yes"}, {"prompt": "b", "completion": "c"}])
    guard, model, (probe,) = place.guard(
        f"probes.yes.path={file}", "probes.yes.metric=exact_match", "probes.yes.max_rows=1", "stop=true"
    )
    tokens = probe.split.tokens(0)
    ids = torch.from_numpy(tokens.input_ids)[None]
    labels = torch.where(torch.from_numpy(tokens.weights)[None] > 0, ids, -100)
    untrained = {name: value.clone() for name, value in model.state_dict().items()}
    plain = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=5e-3)
    for _ in range(30):
        plain(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(plain.state_dict())

    guard.measure_base()
    assert json.loads((place.run.path / "retention.json").read_text())["yes"]["value"] == 1.0
    model.load_state_dict(untrained)
    assert not guard.check(5, place.record)
    assert guard.failure == "probe yes is 100.0% worse than the base, 5.0% is allowed"


def test_a_resumed_run_has_the_bases_values_and_measures_only_what_changed(place, asked, capsys):
    guard, _, _ = place.guard(f"probes.words.path={asked}", f"probes.rest.path={asked}")
    guard.measure_base()
    file = place.run.path / "retention.json"
    kept = json.loads(file.read_text())
    assert kept["words"] == kept["rest"]
    file.write_text(json.dumps({name: {**entry, "value": 7.0} for name, entry in kept.items()}))
    capsys.readouterr()

    again, _, _ = place.guard(f"probes.words.path={asked}", f"probes.rest.path={asked}", "probes.rest.max_rows=2")
    again.measure_base()

    now = json.loads(file.read_text())
    assert now["words"]["value"] == 7.0
    assert (now["rest"]["examples"], now["rest"]["value"] != 7.0) == (2, True)
    said = capsys.readouterr().out
    assert "retention rest: loss" in said
    assert "retention words" not in said


def test_a_run_that_the_guard_stopped_stays_stopped_until_its_limits_change(place, asked):
    words = (f"probes.words.path={asked}", "probes.words.max_drop=0", "stop=true")
    guard, model, _ = place.guard(*words)
    guard.measure_base()
    guard.check_saved_step(0)  # nothing was measured yet
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    assert not guard.check(2, place.record)
    place.record(3, {})

    again, _, _ = place.guard(*words)
    again.measure_base()
    with pytest.raises(RetentionFailed) as forgotten:
        again.check_saved_step(2)
    assert str(forgotten.value) == guard.failure
    assert [line["step"] for line in place.lines()] == [2]
    for words in (("probes.words.max_drop=0", "stop=false"), ("probes.words.max_drop=900", "stop=true")):
        other, _, _ = place.guard(f"probes.words.path={asked}", *words)
        other.measure_base()
        other.check_saved_step(2)


def test_a_value_that_was_no_number_stops_a_resumed_run_too(place, asked):
    guard, _, _ = place.guard(f"probes.words.path={asked}", "stop=true")
    guard.measure_base()
    place.record(4, {"words": {"value": None}})

    with pytest.raises(RetentionFailed):
        guard.check_saved_step(4)


def test_a_probe_that_cannot_fall_is_told(place, asked, capsys):
    guard, _, _ = place.guard(f"probes.words.path={asked}", "probes.words.metric=exact_match")
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
def test_loss_gets_worse_relatively_and_a_share_absolutely(place, asked, metric, before, now, worse):
    (probe,) = place.probes(f"probes.words.path={asked}")
    config = ProbeConfig(metric=ProbeMetric(metric), max_drop=0.1)
    change = ProbeChange(RetentionProbe("words", config, probe.split, 1, ""), before, now)

    assert change.drop == pytest.approx(worse)
    assert change.is_allowed is (worse <= 0.1)


def test_the_rows_of_the_run_are_left_alone(place, asked):
    """Neither is anything held out of a probe, nor does the run's data directory change."""
    prepared = prepare_data(place.config())
    (probe,) = place.probes(f"probes.words.path={asked}")

    assert (len(probe.split), probe.num_examples) == (4, 4)
    assert prepare_data(place.config()).manifest == prepared.manifest


def test_rows_that_are_too_long_are_left_out(place):
    file = place.file("long.jsonl", [{"prompt": "a", "completion": "b" * n} for n in (3, 600)])

    assert place.probes(f"probes.words.path={file}")[0].num_examples == 1


@pytest.mark.parametrize(
    ("content", "words", "where", "problem", "fix"),
    [
        (None, [], ".path", "'{file}' does not exist", None),
        ("", [], ": probe.jsonl", "the source holds no rows", "write rows into it or leave the probe out"),
        (
            '{"foo": 1}\n',
            [],
            ".path",
            "no format fits the columns foo; there is no column for the answer to 'foo'",
            'write rows in a format of `sft formats`, such as {"prompt": …, "completion": …}',
        ),
        (
            json.dumps({"prompt": "a", "completion": "b" * 600}) + "\n",
            [],
            "",
            "no row is left, 1 were dropped: 1 too long (probe.jsonl:1; data.overflow=drop)",
            "shorten the rows; the model takes at most 512 tokens",
        ),
        (
            '{"text": "a document"}\n',
            ["probes.math.metric=exact_match"],
            ".metric",
            "metric is exact_match, but the rows are trained as a whole and have no prompt to answer",
            "set trainer.retention.probes.math.metric=loss, or name rows with prompts and answers",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_training(place, content, words, where, problem, fix):
    file = place.directory / "probe.jsonl"
    if content is not None:
        file.write_text(content)

    with pytest.raises(SftError) as refused:
        place.probes(f"probes.math.path={file}", *words)

    assert refused.value.where == f"trainer.retention.probes.math{where}"
    assert refused.value.problem == problem.format(file=file)
    assert fix is None or refused.value.fix == fix


def test_what_a_stopped_run_tells():
    assert stop_message("runs/a", 40, "probe math is 12.0% worse than the base, 5.0% is allowed") == (
        "stopped   after step 40, saved, without a result: probe math is 12.0% worse than the base, 5.0% is allowed\n"
        "next      sft train --resume runs/a trainer.retention.stop=false to continue anyway,"
        " or a new run with a smaller trainer.lr or a replay source"
    )


def test_a_model_card_counts_the_steps_alone(place, asked):
    guard, _, _ = place.guard(f"probes.words.path={asked}")
    guard.measure_base()
    place.run.metrics.write_text(json.dumps({"step": 1, "loss": 2.0, "trained_tokens": 7}) + "\n")
    guard.check(1, place.record)

    assert run_results(place.run) == {"steps": 1, "tokens trained on": 7, "training loss of the last step": 2.0}


def test_probes_know_the_tokens_that_the_run_added(place):
    """The run's tokenizer holds them already: they are not added once more."""
    file = place.file("asked.jsonl", [{"prompt": "say it", "completion": "word <x> word"}])
    config = place.config(f"probes.words.path={file}")
    config.model.add_tokens = ["<x>"]
    tokenizer = prepare_data(config).tokenizer_directory

    (probe,) = prepare_probes(config, tokenizer)

    added = load_tokenizer(str(tokenizer)).backend.token_to_id("<x>")
    assert probe.split.tokens(0).input_ids.tolist().count(added) == 1
