"""Trackers: what they record is read back from their own files, and nothing else is in them."""

import json
import sqlite3
import struct
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import TrackerName
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring import trackers
from sft_cli.train.monitoring.trackers import Trackers, open_trackers, tracker_problems

TRAIN = """
from accelerate import PartialState
from pathlib import Path
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import TrackerName
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.trackers import open_trackers
import sys
PartialState(cpu=True)
config = Config()
config.tracking.report_to = [TrackerName(sys.argv[1])]
config.tracking.project = "answers"
config.trainer.lr = 0.25
config.launcher.setup = "echo sk-abcdefghijklmnopqrstuvwxyz"
for first, steps in ((0, (1, 2)), (2, (3,))):
    opened = open_trackers(config, RunDir(Path("run")), first)
    for step in steps:
        opened.log({"train/loss": 1 / step, "eval/loss": 2.0 / step}, step)
    opened.close()
"""


def record(name, tmp_path, monkeypatch):
    """Record three steps in two sessions, in a new process without a network or a key, and return its output."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_SECRET_TOKEN", "swordfish-swordfish")
    (tmp_path / "run").mkdir()
    ran = subprocess.run([sys.executable, "-c", TRAIN, name], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def holds_no_secret(directory):
    """Assert that no file has a secret, and none is a list of packages, code, or console output."""
    for file in directory.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert [secret for secret in (b"swordfish", b"sk-abcdef") if secret in content] == [], file
            assert file.name not in ("requirements.txt", "output.log", "wandb-metadata.json"), file


def wandb_records(content):
    """Yield the records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_tensorboard(tmp_path):
    config = Config()
    opened = open_trackers(config, RunDir(tmp_path), 0)
    opened.log({"train/loss": 2.0, "eval/sources/a": 1.0}, 3)
    opened.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [(3, 2.0)]
    assert [(one.step, one.value) for one in read.Scalars("eval/sources/a")] == [(3, 1.0)]


def test_no_tracker(tmp_path):
    config = Config()
    config.tracking.report_to = []
    open_trackers(config, RunDir(tmp_path), 0).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio(tmp_path, monkeypatch):
    printed = record("trackio", tmp_path, monkeypatch)
    assert "trackio show --project answers shows the values" in printed
    with sqlite3.connect(tmp_path / "run/trackio/answers.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
        [settings] = {row[0] for row in database.execute("select config from configs")}
    assert [(name, step, json.loads(values)["train/loss"]) for name, step, values in rows] == [
        ("run", 1, 1.0), ("run", 2, 0.5), ("run", 3, 1 / 3),
    ]  # fmt: skip
    assert json.loads(settings)["trainer.lr"] == 0.25
    holds_no_secret(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow(tmp_path, monkeypatch):
    record("mlflow", tmp_path, monkeypatch)
    with sqlite3.connect(tmp_path / "run/mlflow.db") as database:
        rows = database.execute("select run_uuid, step, value from metrics where key = 'train/loss' order by step")
        runs, steps, values = zip(*rows.fetchall(), strict=True)
        [lr] = database.execute("select value from params where key = 'trainer.lr'").fetchall()
    assert len(set(runs)) == 1
    assert steps == (1, 2, 3)
    assert values == pytest.approx((1.0, 0.5, 1 / 3))
    assert lr == ("0.25",)
    holds_no_secret(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb(tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    printed = record("wandb", tmp_path, monkeypatch)
    assert "wandb sync run/wandb/offline-run-* uploads the values" in printed
    found = {}
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    for file in files:
        for data in wandb_records(file.read_bytes()):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(data)
            values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in entry.history.item}
            found |= {values["_step"]: values["train/loss"]} if "train/loss" in values else {}
    assert found == {1: 1.0, 2: 0.5, 3: 1 / 3}
    holds_no_secret(tmp_path / "run")


def test_a_missing_library_is_refused(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    config = Config()
    config.tracking.report_to = [TrackerName.wandb, TrackerName.tensorboard, TrackerName.mlflow]
    assert [str(problem) for problem in tracker_problems(config)] == [
        "tracking.report_to: wandb is not installed\n  fix: pip install 'sft-cli[wandb]'",
        "tracking.report_to: mlflow is not installed\n  fix: pip install 'sft-cli[mlflow]'",
    ]


def test_a_tracker_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is full\nmore")

    monkeypatch.setattr(trackers, "_open_trackio", fail)
    config = Config()
    config.tracking.report_to = [TrackerName.tensorboard, TrackerName.trackio]
    with pytest.raises(SftError, match="trackio cannot be opened: the disk is full") as caught:
        open_trackers(config, RunDir(tmp_path), 0)
    assert caught.value.fix == "tracking.report_to=[tensorboard] trains without it"


def test_a_tracker_that_fails_gets_no_more_values_and_the_others_do(capsys):
    class Fails:
        def log(self, values, step):
            raise ConnectionError("no route\nto host")

        close = log

    class Keeps:
        def __init__(self):
            self.seen = []

        def log(self, values, step):
            self.seen.append((step, dict(values)))

        def close(self):
            self.seen.append("closed")

    kept = Keeps()
    opened = Trackers({"wandb": Fails(), "own": kept})
    opened.log({"train/loss": 1.0}, 1)
    opened.log({"train/loss": 2.0}, 2)
    opened.close()
    assert kept.seen == [(1, {"train/loss": 1.0}), (2, {"train/loss": 2.0}), "closed"]
    assert capsys.readouterr().out == ("warning: wandb gets no more values (no route); metrics.jsonl has them all\n")
