"""The lock of a run directory: a running owner is named and a dead one is ignored, on any kind of disk."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from sft_cli.errors import SftError
from sft_cli.train.setup import run_lock
from sft_cli.train.setup.run_lock import hold_run_lock

HOLDER = """
import sys, time
from pathlib import Path
from sft_cli.train.setup.run_lock import hold_run_lock
with hold_run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write(tmp_path, host="node7", pid=4711):
    """Write the lock file that a killed process of another machine leaves."""
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"host": host, "pid": pid, "since": "2026-11-28 01:02:03 +0000"}))
    return file


def test_a_running_owner_is_named(holder, tmp_path):
    with pytest.raises(SftError) as refused, hold_run_lock(tmp_path / ".lock"):
        pass
    host = re.escape(socket.gethostname())
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}: process {holder.pid} on {host} has been training there since "
        rf"\d{{4}}-\d\d-\d\d [\d:]{{8}} [+-]\d{{4}}\n  fix: wait for it, or stop it: sft stop \S+; "
        r"a new run needs a directory of its own: run_dir=\S+",
        str(refused.value),
    )


def test_a_killed_owner_on_this_machine_is_ignored(holder, tmp_path, capsys):
    """The file still names it, but the kernel has released the lock."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid
    with hold_run_lock(tmp_path / ".lock"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [None, SystemExit(130)])
def test_the_owner_is_removed_at_the_end(tmp_path, error):
    def use():
        with hold_run_lock(tmp_path / ".lock"):
            if error:
                raise error

    if error:
        with pytest.raises(SystemExit):
            use()
    else:
        use()
    assert (tmp_path / ".lock").read_text() == ""


def test_an_owner_on_another_machine_that_touches_the_file_is_running(tmp_path, monkeypatch):
    """The lock is free here, because the disk does not pass locks to other machines."""
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 5.0)
    file, finished = write(tmp_path), threading.Event()

    def beat():
        stamp = 0
        while not finished.wait(0.05):
            stamp += 1
            os.utime(file, (stamp, stamp))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(SftError) as refused, hold_run_lock(file):
            pass
    finally:
        finished.set()
        thread.join()
    assert refused.value.problem == "process 4711 on node7 has been training there since 2026-11-28 01:02:03 +0000"
    assert json.loads(file.read_text())["pid"] == 4711


def test_an_owner_on_another_machine_without_heartbeat_is_ignored_with_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.2)
    with hold_run_lock(write(tmp_path)):
        pass
    assert capsys.readouterr().out == (
        "lock      process 4711 on node7 started training here and did not release the lock; "
        "checking for 0 s whether it is still running\nlock      process 4711 on node7 is not running any more\n"
    )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_on_a_disk_without_locks_an_owner_on_this_machine_is_watched(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.2)
    with hold_run_lock(write(tmp_path, socket.gethostname())):
        pass
    assert "is not running any more" in capsys.readouterr().out


def test_the_owner_touches_the_file_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    file, threads = tmp_path / ".lock", threading.active_count()
    with hold_run_lock(file):
        os.utime(file, (1, 1))
        for _ in range(500):
            if file.stat().st_mtime > 1:
                break
            threading.Event().wait(0.01)
        assert file.stat().st_mtime > 1
    assert threading.active_count() == threads
