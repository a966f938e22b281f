"""The index of runs: figures from the ends of files, changes by revision, names that cannot leave the directory."""

import json
import os

import pytest

from sft_cli.board import run_index, run_row
from sft_cli.board.run_index import RunIndex
from sft_cli.board.tails import JsonLinesTail
from sft_cli.errors import SftError
from sft_cli.train.setup import run_lock
from tests.board.run_dirs import finish, metrics_text, step_line, write_run


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_index, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(run_index, "DISCOVERY_SECONDS", 0.0)


def test_a_row_holds_the_last_figures_and_the_best_of_the_checkpoint(tmp_path):
    write_run(tmp_path / "one", steps=120)
    (row,) = RunIndex(tmp_path).rows()
    assert (row.name, row.state, row.recipe, row.step) == ("one", "interrupted", "quickstart", 120)
    assert row.planned_steps == 200
    assert row.loss == step_line(120, 100)["loss"]
    assert row.best_held_out == 0.45
    assert row.held_out == pytest.approx(0.8777, abs=1e-3)
    assert row.tokens_per_second == 1600
    assert row.started == 1796096236
    assert row.seconds_left is None


def test_only_the_end_of_a_long_file_is_read(tmp_path, monkeypatch):
    run = write_run(tmp_path / "one", steps=2000, per_epoch=1000)
    read = []
    original = run_row.JsonLinesTail.read

    def counted(self):
        lines, replaced = original(self)
        read.append(len(lines))
        return lines, replaced

    monkeypatch.setattr(run_row.JsonLinesTail, "read", counted)
    index = RunIndex(tmp_path)
    assert index.rows()[0].step == 2000
    assert 20 < read[0] < 150
    with run.metrics.open("a") as stream:
        stream.write(json.dumps(step_line(2001, 1000)) + '\n{"step": 2002')
    assert index.rows()[0].step == 2001
    assert read[1] == 1


def test_only_what_changed_is_sent(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    index = RunIndex(tmp_path)
    first = index.changes()
    assert first["complete"]
    assert {row["name"] for row in first["runs"]} == {"one", "two"}
    assert index.changes(first["revision"])["runs"] == []
    with runs[1].metrics.open("a") as stream:
        stream.write(json.dumps(step_line(101, 100)) + "\n")
    second = index.changes(first["revision"])
    assert [row["step"] for row in second["runs"]] == [101]
    assert not second["complete"]
    (tmp_path / "one").rename(tmp_path.parent / "gone")
    write_run(tmp_path / "sweep" / "three")
    third = index.changes(second["revision"])
    assert third["removed"] == ["one"]
    assert [row["name"] for row in third["runs"]] == ["sweep/three"]
    assert RunIndex(tmp_path).changes(third["revision"])["complete"]  # of another process


def test_a_resumed_run_whose_metrics_are_replaced_is_read_again(tmp_path):
    run = write_run(tmp_path / "one", steps=120)
    index = RunIndex(tmp_path)
    assert index.rows()[0].step == 120
    fresh = run.metrics.with_suffix(".new")
    fresh.write_text(metrics_text(60, 100))
    os.replace(fresh, run.metrics)
    assert index.rows()[0].step == 60


def test_a_running_run_has_a_time_left_and_a_finished_one_its_plan(tmp_path):
    run = write_run(tmp_path / "one", steps=120)
    with run_lock.hold_run_lock(run.lock):
        row = RunIndex(tmp_path).rows()[0]
        assert (row.state, row.seconds_left) == ("running", 40.0)
    finish(run, 150)
    row = RunIndex(tmp_path).rows()[0]
    assert (row.state, row.planned_steps) == ("finished", 150)


def test_a_directory_that_is_a_run_has_its_own_name(tmp_path):
    write_run(tmp_path / "one")
    assert [row.name for row in RunIndex(tmp_path / "one").rows()] == ["one"]


@pytest.mark.parametrize("name", ["../one", "/etc", "one/../one", "", ".", "one/checkpoints", "%2e%2e"])
def test_a_name_is_only_looked_up(tmp_path, name):
    write_run(tmp_path / "one")
    with pytest.raises(SftError, match="no such run"):
        RunIndex(tmp_path).run(name)


def test_damaged_lines_and_missing_files_are_no_error(tmp_path):
    run = write_run(tmp_path / "one", steps=60)
    run.metrics.write_text('{"step": 1, "loss": null}\nnot json\n[1]\n{"step": 2, "loss": 1.5}\n')
    (run.checkpoints / "step-60" / "state.json").write_text('{"progress": {')
    run.console.unlink()
    run.adapter.mkdir()
    run.end.write_text("{")
    row = RunIndex(tmp_path).rows()[0]
    assert (row.loss, row.best_held_out, row.recipe, row.started) == (1.5, None, "", None)


def test_a_tail_begins_at_a_whole_line(tmp_path):
    file = tmp_path / "lines.jsonl"
    tail = JsonLinesTail(file, 25)
    assert tail.read() == ([], False)
    file.write_text("".join(f'{{"step": {n}}}\n' for n in range(10, 20)))  # 13 bytes each
    assert tail.read() == ([{"step": 19}], False)
    file.unlink()
    assert tail.read() == ([], True)
