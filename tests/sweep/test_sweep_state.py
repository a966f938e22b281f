"""Outcomes of members, sweep.json, ranking and its output."""

import json
import shutil

import pytest

from sft_cli.errors import SftError
from sft_cli.sweep import ranking
from sft_cli.sweep.metric import STEPS, MetricValue, SweepMetric
from sft_cli.sweep.state import NAME, MemberOutcome, MemberState, last_error, load_record, read_outcome, save_record
from tests.sweep.helpers import MEMBERS, SENTENCE, outcomes, swept


def test_state_of_members_is_read_from_their_directories(tmp_path):
    record = swept(tmp_path)
    record.log(MEMBERS[2]).write_text("finished\n")
    shutil.rmtree(record.run(MEMBERS[1]).adapter)
    (record.run(MEMBERS[0]).path / "metrics.jsonl").unlink()
    (record.run(MEMBERS[0]).adapter).rmdir()

    assert outcomes(record) == {
        MEMBERS[0]: MemberOutcome(MemberState.waiting),
        MEMBERS[1]: MemberOutcome(MemberState.interrupted, MetricValue(1.5, 4), 5, 7.5),
        MEMBERS[2]: MemberOutcome(MemberState.finished, MetricValue(1.0, 4), 5, 7.5),
        MEMBERS[3]: MemberOutcome(MemberState.failed, None, 1, 1.5, SENTENCE),
    }
    assert read_outcome(record, MEMBERS[1], "it was killed").error == "it was killed"
    finished = read_outcome(record, MEMBERS[2], "it was killed")
    assert (finished.state, finished.error) == (MemberState.finished, "it was killed")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("step 1\nerror: a: b\n  fix: c\n", "a: b\n  fix: c", id="ends-with-one"),
        pytest.param("error: a: b\n  fix: c\nerror: d: e\n  fix: f\n", "a: b\n  fix: c\nd: e\n  fix: f", id="several"),
        pytest.param("error: a: b\n  fix: c\nresume    after step 2\n", "", id="an-earlier-session-failed"),
        pytest.param("Traceback\nValueError: x\n", "", id="a-bug"),
        pytest.param("", "", id="nothing"),
        pytest.param(
            "error: a: b\n  fix: c\nsrun: error: node: task 0: Exited with exit code 2\nsrun: Terminating\n",
            "a: b\n  fix: c",
            id="followed-by-srun",
        ),
        pytest.param(
            "KeyError: 1\nsrun: error: node: task 0: Exited with exit code 1\n",
            "KeyError: 1 (srun: error: node: task 0: Exited with exit code 1)",
            id="a-bug-in-a-job",
        ),
        pytest.param(
            "step 3\nslurmstepd: error: Detected 1 oom_kill event\nsrun: error: node: task 0: Out Of Memory\n",
            "step 3 (slurmstepd: error: Detected 1 oom_kill event)",
            id="a-job-without-memory",
        ),
        pytest.param("stopped\nsrun: error: node: task 0: Exited with exit code 143\n", "", id="a-job-that-saved"),
    ],
)
def test_last_error_of_a_log(tmp_path, text, found):
    (tmp_path / "log").write_text(text)
    assert last_error(tmp_path / "log") == found


def test_saved_record_loads_after_moving(tmp_path):
    record = swept(tmp_path / "a")
    save_record(record, outcomes(record))
    shutil.move(tmp_path / "a", tmp_path / "b")

    loaded, errors = load_record(tmp_path / "b")

    assert loaded.directory == tmp_path / "b"
    assert (loaded.keys, loaded.members, loaded.metric, loaded.parallel) == (
        record.keys, record.members, record.metric, 2,
    )  # fmt: skip
    assert list(errors.values()) == ["", "", "", SENTENCE]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda values: values["members"][0].update(name="../../etc"), id="a-name-that-leaves"),
        pytest.param(lambda values: values["members"][0].update(name=".."), id="the-directory-above"),
        pytest.param(lambda values: values.pop("metric"), id="a-key-is-missing"),
        pytest.param(lambda values: values.update(members=3), id="no-list"),
    ],
)
def test_invalid_sweep_json_is_refused(tmp_path, broken):
    record = swept(tmp_path)
    save_record(record, outcomes(record))
    values = json.loads((tmp_path / NAME).read_text())
    broken(values)
    (tmp_path / NAME).write_text(json.dumps(values))
    with pytest.raises(SftError, match="the file was not written by sft sweep"):
        load_record(tmp_path)


def test_missing_sweep_suggests_the_newest(tmp_path):
    record = swept(tmp_path / "a")
    save_record(record, outcomes(record))
    with pytest.raises(SftError) as caught:
        load_record(tmp_path / "b")
    assert str(caught.value) == (
        f"--resume {tmp_path}/b: not the directory of a sweep (it has no sweep.json)\n"
        f"  fix: sft sweep --resume {tmp_path}/a, the newest sweep in that folder"
    )


@pytest.mark.parametrize(("mode", "numbers"), [("min", [3, 2, 1, 4]), ("max", [1, 2, 3, 4])])
def test_best_finished_member_is_first_and_failed_are_last(tmp_path, mode, numbers):
    record = swept(tmp_path)
    record = record.with_metric(SweepMetric("loss", mode, record.metric.kind))
    assert [member.number for member in ranking.rank_members(record, outcomes(record))] == numbers


def test_finished_member_without_a_value_is_not_the_best(tmp_path):
    record = swept(tmp_path)
    record = record.with_metric(SweepMetric("kl", "min", STEPS))
    assert ranking.best_member(record, outcomes(record)) is None


def test_table_contains_values_reasons_and_next_commands(tmp_path, capsys):
    record = swept(tmp_path)
    ranking.print_ranking(record, outcomes(record))
    printed = capsys.readouterr().out
    assert printed.startswith(f"sweep     {tmp_path}: 3 finished, 1 failed\n")
    first = next(line for line in printed.splitlines() if line.lstrip().startswith("003"))
    assert first.split() == ["003", "1e-2", "4", "1.0000", "4", "5", "8", "s", "finished"]
    assert f"failed    004 lr=1e-2 rank=8: {SENTENCE.splitlines()[0]}\n" in printed
    best = record.run(MEMBERS[2]).path
    assert printed.endswith(
        f"best      003 lr=1e-2 rank=4: {best}/adapter\nnext      sft eval {best} --compare base\n"
        f"          sft merge {best} --out {best}/merged\n"
    )


@pytest.mark.parametrize(
    ("keys", "kind", "datasets", "warning"),
    [
        (("trainer.lr",), "held-out", 1, ""),
        (("loss.kl",), "held-out", 1, ""),
        (
            ("loss.kl",),
            "training",
            1,
            "the members' losses are different measures; compare them with --metric nll",
        ),
        (
            ("loss.reduction",),
            "held-out",
            1,
            "the members' losses are different measures; compare them with --metric perplexity",
        ),
        (
            ("data",),
            "held-out",
            2,
            "the members trained on 2 data sets, and may be evaluated on different held-out rows",
        ),
    ],
)
def test_incomparable_values_give_a_warning(tmp_path, keys, kind, datasets, warning):
    record = swept(tmp_path)
    changed = type(record)(
        tmp_path, (), keys, record.members, SweepMetric("loss", "min", kind), parallel=1, datasets=datasets
    )
    assert ranking.comparability_warning(changed) == warning
