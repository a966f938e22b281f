"""The runner with real processes that do not train: every kind of exit, and parallel members."""

import os
import signal
import sys
import time

import pytest

from sft_cli.sweep import runner
from sft_cli.sweep.runner import SweepCallbacks, run_members
from tests.sweep.helpers import MEMBERS, swept

ENDS = {
    1: "print('fine')",
    2: "import sys; print('error: a: b\\n  fix: c', file=sys.stderr); sys.exit(2)",
    3: "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    4: "raise ValueError('a bug')",
}


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A sweep whose members run the Python text in their config.yaml."""
    monkeypatch.setattr(runner, "MEMBER", [sys.executable, "-c", "import sys; exec(open(sys.argv[2]+'/code').read())"])
    found = swept(tmp_path)
    for member in MEMBERS:
        found.log(member).unlink(missing_ok=True)
    return found


def program(record, member, text):
    (record.run(member).path / "code").write_text(text)


def recorded_events(events):
    return SweepCallbacks(
        lambda member: events.append((member.number, "starts")),
        lambda member, reason: events.append((member.number, reason)),
        lambda members: events.append(len(members)),
    )


def test_failed_members_have_a_reason_and_do_not_stop_others(record):
    for member in MEMBERS:
        program(record, member, ENDS[member.number])
    record.log(MEMBERS[0]).write_text("error: of an earlier session: x\n  fix: y\n")
    events = []

    assert run_members(record, MEMBERS, [{}, {}], recorded_events(events)) == 0

    ended = dict(event for event in events if isinstance(event, tuple) and event[1] != "starts")
    assert ended == {
        1: "",
        2: "a: b\n  fix: c",
        3: "the process was killed by SIGKILL, probably because the machine ran out of memory",
        4: "ValueError: a bug",
    }
    assert max(event for event in events if isinstance(event, int)) == 2
    assert record.log(MEMBERS[0]).read_text().endswith("fine\n")


def test_each_slot_has_its_environment_one_member_at_a_time(record):
    for member in MEMBERS:
        program(record, member, "import os, time; print(os.environ['SLOT']); time.sleep(0.3)")
    run_members(record, MEMBERS, [{"SLOT": "a"}, {"SLOT": "b"}], recorded_events([]))
    slots = [record.log(member).read_text().strip() for member in MEMBERS]
    assert sorted(slots[:2]) == sorted(slots[2:]) == ["a", "b"]


def test_signal_is_forwarded_and_no_member_starts(record):
    program(
        record,
        MEMBERS[0],
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(143)); print('on', flush=True)"
        "\nwhile True: signal.pause()",
    )
    events = []

    def running(members):
        if record.log(MEMBERS[0]).read_text() and members:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

    before = signal.getsignal(signal.SIGTERM)
    stopped = run_members(
        record,
        MEMBERS[:2],
        [{}],
        SweepCallbacks(
            lambda member: events.append(member.number), lambda member, reason: events.append(reason), running
        ),
    )
    assert stopped == signal.SIGTERM
    assert events == [1, ""]
    assert signal.getsignal(signal.SIGTERM) is before
