"""Streamed hub data sets, read by the real clients from a small hub on this machine."""

import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import test_sources_hub
from test_sources_hub import COMMIT

STREAM = """
import json, sys
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources.source_rows import source_fingerprint
from sft_cli.data.sources.streaming import stream_blocks
from sft_cli.errors import SftError

found = []
for values, states in json.loads(sys.argv[1]):
    config = SourceConfig(path="owner/MyName", stream=True, **values)
    try:
        through = list(stream_blocks(config, "mine", "train", 1))
        rows = [[[row.where, dict(row.values)] for row in block.rows] for block in through]
        found.append(rows)
        for index, block in enumerate(through if states else []):
            state = json.loads(json.dumps(block.state))
            rest = stream_blocks(config, "mine", "train", 1, state)
            again = [[[r.where, dict(r.values)] for r in b.rows] for b in rest]
            assert again == rows[index + 1 :], (index, state)
        found.append(source_fingerprint(config, "mine"))
    except SftError as error:
        found.append(str(error))
print(json.dumps(found))
"""
hub = test_sources_hub.hub


def shard(start, stop):
    """Return a Parquet file with a column of objects of different keys."""
    rows = [{"a": n, "b": {"x": n} if n % 2 else {"y": "t"}} for n in range(start, stop)]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=900)
    return sink.getvalue().to_pybytes()


def readme(pattern):
    lines = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {pattern}\n"
    return f"---\n{lines}---\n".encode()


PARQUET = {f"{n}.parquet": shard(2300 * n, 2300 * (n + 1)) for n in range(3)} | {"README.md": readme("'*.parquet'")}
LINES = {f"{n}.jsonl": "".join(f'{{"a": {i}}}\n' for i in range(n, n + 9)).encode() for n in (0, 9)} | {
    "README.md": readme("'*.jsonl'")
}


def stream(home, cases, **environment):
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command = [sys.executable, "-c", STREAM, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.every_change("lines")
@pytest.mark.parametrize(
    ("files", "buffer", "total"),
    [
        pytest.param(PARQUET, 1300, 6900, id="parquet"),
        pytest.param(LINES, 4, 18, id="lines"),
        pytest.param({**test_sources_hub.FILES}, 1, 2, id="one-shard"),
    ],
)
def test_stream_resumes_from_any_state(hub, tmp_path, monkeypatch, files, buffer, total):
    """This holds across batches, row groups and shards; the commit is pinned and nothing is stored."""
    monkeypatch.setattr(test_sources_hub, "FILES", files)
    monkeypatch.setattr(test_sources_hub.Hub, "asked", False)
    cases = [
        ({"shuffle_buffer": buffer, "max_rows": 10**6}, True),
        ({"shuffle_buffer": buffer, "max_rows": total - 1}, False),
    ]
    rows, pinned, some, _ = stream(tmp_path, cases, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    everything = [row for block in rows for row in block]
    assert len({where for where, _ in everything}) == len(everything) == total
    assert sum(len(block) for block in some) == total - 1
    assert pinned == {"train": {"hub": "owner/MyName", "name": None, "split": "train", "revision": COMMIT}}
    if files is PARQUET:
        assert sorted(values["a"] for _, values in everything) == list(range(total))
        assert all(values["b"] == ({"x": values["a"]} if values["a"] % 2 else {"y": "t"}) for _, values in everything)
        places = {values["a"]: where for where, values in everything}
        assert places[2300] == f"owner/MyName@{COMMIT[:12]}[train, shard 2]:1"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".jsonl", ".arrow")]


def test_hub_data_set_offline(tmp_path):
    (output,) = stream(tmp_path, [({"max_rows": 1}, False)], HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert output == (
        "data.mix.mine.path: the hub cannot be reached, and 'owner/MyName' is streamed\n"
        "  fix: run the command with a network, or data.mix.mine.stream=false"
    )
