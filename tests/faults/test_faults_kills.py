"""SIGKILL at random moments: every run ends like one that was never killed."""

import time

import pytest
from faults_kills import kill_often, many
from faults_runs import words

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
def test_killed_runs_end_like_the_undisturbed_run(forks, straight, ledger, tmp_path):
    """Losses, gradient norms and every byte of the adapter agree; at most save_every steps are computed again."""
    began = time.monotonic()
    ended = forks.start(words(tmp_path / "timed"), tmp_path / "logs", {"SFT_HOME": str(tmp_path / "home")}).wait()
    assert ended.code == 0, ended
    kills = many(default=12)
    kill_often(forks, tmp_path, straight, ledger, kills=kills, seconds=time.monotonic() - began, seed=kills)
    assert sum(fault.kind == "SIGKILL" for fault in ledger.faults) == kills
