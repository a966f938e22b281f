"""What a path that is not a run directory is answered with."""

import pytest

from sft_cli.errors import SftError
from sft_cli.run_dir import open_run


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of three runs, two of them finished."""
    monkeypatch.chdir(tmp_path)
    for name in ("001-lr=1e-4", "002-lr=2e-4", "003-lr=3e-4"):
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "config.yaml").touch()
    for name in ("001-lr=1e-4/adapter", "003-lr=3e-4/model"):
        (tmp_path / "s" / name).mkdir()
    (tmp_path / "s" / "sweep.json").touch()
    return tmp_path / "s"


def test_a_sweep_is_answered_with_its_finished_runs(sweep):
    with pytest.raises(SftError) as caught:
        open_run("s", "sft eval")
    assert str(caught.value) == (
        "s: this is a sweep of 3 runs, 2 of them finished; name one of its runs\n"
        "  fix: sft eval s/001-lr=1e-4\n"
        "   or: sft eval s/003-lr=3e-4"
    )


@pytest.mark.parametrize(("command", "done"), [("sft train --resume", True), ("sft chat", False)])
def test_a_sweep_to_resume_is_answered_with_sft_sweep(sweep, command, done):
    if not done:
        for directory in (sweep / "001-lr=1e-4/adapter", sweep / "003-lr=3e-4/model"):
            directory.rmdir()
    with pytest.raises(SftError) as caught:
        open_run("s", command)
    assert caught.value.fix == "sft sweep --resume s"
