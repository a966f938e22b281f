"""``sft runs --json`` and ``--where``, and ``sft show RUN``."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.train.run_details import FIGURES
from sft_cli.train.run_filter import parse_conditions, select_records
from tests.cli.test_list_runs import STEPS, made

CONFIG = "run_name: {name}\nmodel:\n  path: m\nadapter:\n  kind: lora\n  rank: 8\ntrainer:\n  lr: {lr}\n"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return the folder of two runs: ``a`` is finished with a held-out loss, ``b`` is interrupted without one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    for name, lr, lines, finished in (("a", 0.0001, STEPS, True), ("b", 0.002, STEPS[:1], False)):
        run = made(tmp_path / "runs" / name, *lines, finished=finished)
        run.config.write_text(CONFIG.format(name=name, lr=lr))
    return tmp_path / "runs"


def listed(capsys, *words: str) -> list[str]:
    assert execute(["runs", "--json", *words]) == 0
    return sorted(record["name"] for record in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (["state=finished"], ["a"]),
        (["state != finished"], ["b"]),
        (["held_out_loss<2"], ["a"]),
        (["held_out_loss<1.25"], []),
        (["held_out_loss<=1.25 and trainer.lr=1e-4"], ["a"]),
        (["held_out_loss=none"], ["b"]),
        (["trainer.lr>1e-3"], ["b"]),
        (["adapter.rank=8", "loss>1.7"], ["b"]),
        (["rank>=8"], ["a", "b"]),
        (["name='a'"], ["a"]),
        ([], ["a", "b"]),
    ],
)
def test_conditions_choose_runs(runs, capsys, where, names):
    assert listed(capsys, *(word for one in where for word in ("--where", one))) == names


def test_conditions_also_choose_the_rows_of_the_table(runs, capsys):
    assert execute(["runs", "--where", "state=finished"]) == 0
    out = capsys.readouterr().out
    assert "runs/a" in out
    assert "runs/b" not in out
    assert execute(["runs", "--where", "step>100"]) == 0
    assert capsys.readouterr() == ("", "no run matches --where\n")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("held_out_los<2", "did you mean held_out_loss?"),
        ("trainer.lrr<2", "did you mean trainer.lr?"),
        ("finished", "is not of the form"),
        ("__import__('os')", "is not of the form"),
        ("state=a or state=b", "is not of the form"),
        ("state<finished", "sft runs --where state=finished"),
    ],
)
def test_wrong_conditions_are_refused(runs, where, message):
    with pytest.raises(SftError) as caught:
        execute(["runs", "--where", where])
    assert message in f"{caught.value.problem} {caught.value.fix}"


def test_texts_and_missing_values_are_neither_less_nor_greater():
    records = [{"a": None}, {"a": "2"}, {"a": True}, {"a": 2}, {"b": 1}]
    assert select_records(records, parse_conditions(["a>0"]), ["a"]) == [{"a": 2}]
    assert select_records(records, parse_conditions(["a!=2"]), ["a"]) == [
        {"a": None},
        {"a": "2"},
        {"a": True},
        {"b": 1},
    ]


def test_json_has_every_documented_figure(runs, capsys):
    assert execute(["runs", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [tuple(record) for record in records] == [FIGURES, FIGURES]
    record = next(one for one in records if one["name"] == "a")
    assert (record["step"], record["loss"], record["best_step"], record["rank"]) == (2, 1.5, 2, 8)


def test_show_prints_what_a_run_is(runs, capsys):
    run = runs / "a"
    scores = {"metrics": {"exact_match": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 4}}}
    (run / "eval" / "arc").mkdir(parents=True)
    (run / "eval" / "arc" / "scores.json").write_text(json.dumps(scores))
    (run / "eval" / "arc" / "suite.json").write_text(json.dumps({"suite": "arc", "model": {"label": "base"}}))
    (run / "before.json").write_text('{"exact_match": 0.1, "loss": 3.0, "stopped_share": null}')
    (run / "after.json").write_text('{"exact_match": 0.9, "loss": 1.0, "stopped_share": 1.0}')
    assert execute(["show", str(run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["state", "finished,", "step", "2"] in lines
    assert ["loss", "training", "1.5000,", "held-out", "1.2500"] in lines
    assert ["model", "m,", "adapter", "lora,", "rank", "8"] in lines
    assert ["exact", "match", "10.0%", "90.0%"] in lines
    assert ["arc", "base", "exact_match", "0.5", "0.2", "to", "0.8", "4"] in lines
    assert execute(["show", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["evaluations"][0]["metrics"] == scores["metrics"]
    assert shown["config"]["trainer"] == {"lr": 0.0001}
    assert "metrics.jsonl" in shown["files"]


def test_an_unfinished_run_names_how_it_is_resumed(runs, capsys):
    assert execute(["show", str(runs / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next"] == [f"sft train --resume {runs / 'b'}"]


def test_a_run_is_shown_alone(runs):
    with pytest.raises(SftError, match="have no effect"):
        execute(["show", str(runs / "a"), "trainer.lr=1"])
    with pytest.raises(SftError, match="name a run directory"):
        execute(["show", "--json"])
