"""Streamed rows: equal for equal seeds, and equal after resuming from any state."""

import bz2
import gzip
import json
from functools import partial

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import remote, streaming
from sft_cli.data.sources.slices import BadRow
from sft_cli.data.sources.source_rows import read_source, source_fingerprint
from sft_cli.data.sources.streaming import stream_blocks
from sft_cli.errors import SftError
from tests.data.web_server import Site, clear_remote_caches


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    clear_remote_caches()
    site = Site()
    yield site
    site.stop()


def config(path, rows=10**6, buffer=7):
    return SourceConfig(path=str(path), stream=True, shuffle_buffer=buffer, max_rows=rows)


def plain(rows):
    return [(row.where, row.source, str(row.error) if isinstance(row, BadRow) else dict(row.values)) for row in rows]


def streamed(source, seed=1, state=None):
    """Return the rows and state of every block; states are converted to JSON and back."""
    result = stream_blocks(source, "mine", "train", seed, state)
    return [(plain(block.rows), json.loads(json.dumps(block.state))) for block in result]


def write(folder, kind, numbers):
    """Write a file of rows of a kind, some of them invalid or blank if the kind allows it."""
    path = folder / f"{kind.partition('-')[2] or 'rows'}.{kind.partition('-')[0]}"
    lines = "".join("\n" if n % 7 == 3 else "nonsense\n" if n % 7 == 5 else f'{{"a": {n}}}\n' for n in numbers).encode()
    table = pyarrow.table({"a": list(numbers)})
    ending = kind.partition("-")[0]
    if ending == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=5)
    elif ending == "arrow":
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    elif ending == "csv":
        path.write_text("a,b\n" + "".join(f'{n},"x\ny"\n' for n in numbers))
    else:
        pack = {"gz": gzip.compress, "bz2": bz2.compress}.get(ending.rpartition(".")[2], bytes)
        path.write_bytes(pack(b"\xef\xbb\xbf" + lines))
    return path


KINDS = ("jsonl", "jsonl.gz", "ndjson.bz2", "csv", "parquet", "arrow")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(2, 23), min_size=1, max_size=3), st.integers(1, 30), st.data())
def test_stream_resumes_from_any_state(tmp_path_factory, kind, sizes, buffer, data):
    folder, start = tmp_path_factory.mktemp("many"), 0
    for number, size in enumerate(sizes):
        write(folder, f"{kind}-{number}", range(start, start + size))
        start += size
    source = config(folder, rows=data.draw(st.integers(1, start + 3)), buffer=buffer)
    through = streamed(source)
    assert sum(len(rows) for rows, _ in through) <= source.max_rows
    assert all(len(rows) == buffer for rows, _ in through[:-1])
    for index, (_, state) in enumerate(through):
        assert streamed(source, state=state) == through[index + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_stream_state_does_not_affect_later_files(tmp_path, kind):
    """Files of different lengths, with more files after the state than before it."""
    for number, size in enumerate((40, 30, 20, 10)):
        write(tmp_path, f"{kind}-{number}", range(100 * number, 100 * number + size))
    through = streamed(config(tmp_path, buffer=4))
    assert len(through) > 10
    for index, (_, state) in enumerate(through):
        assert streamed(config(tmp_path, buffer=4), state=state) == through[index + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_complete_stream_has_every_row_once(tmp_path, kind):
    """Every row comes once, with the location of the stored row; each seed gives another order."""
    path = write(tmp_path, kind, range(50))
    stored = plain(read_source(SourceConfig(path=str(path)), "mine", "train"))
    one, other = ([row for rows, _ in streamed(config(path), seed) for row in rows] for seed in (1, 2))
    by_place = partial(sorted, key=lambda row: (len(row[0]), row[0]))
    assert by_place(one) == by_place(other) == by_place(stored)
    assert one != stored
    assert one != other


def test_blocks_have_adjacent_rows_and_max_rows_ends_the_stream(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"a": {number}}}\n' for number in range(100)))
    result = [[values["a"] for _, _, values in rows] for rows, _ in streamed(config(path, rows=25, buffer=10))]
    assert [sorted(block) for block in result] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert result[0] != sorted(result[0])
    assert [n % 10 for n in result[0]] != [n % 10 for n in result[1]], "each block has a permutation of its own"


def test_order_of_files_depends_on_the_seed(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"a": number}))
    orders = [
        [values["a"] for rows, _ in streamed(config(tmp_path, buffer=1), seed) for _, _, values in rows]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(6))
    assert orders[0] != orders[2]
    assert orders[0] != list(range(6))


def test_stream_of_a_saved_data_set(tmp_path):
    Dataset.from_dict({"a": list(range(20))}).save_to_disk(tmp_path / "saved", num_shards=3)
    source = config(tmp_path / "saved", buffer=3)
    through = streamed(source)
    rows = [row for block, _ in through for row in block]
    assert sorted(values["a"] for _, _, values in rows) == list(range(20))
    assert all(where.endswith(f":{values['a'] + 1}") for where, _, values in rows)
    for index, (_, state) in enumerate(through):
        assert streamed(source, state=state) == through[index + 1 :]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("name", ["d/rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_stream_from_a_server_stores_nothing(site, tmp_path, name, ranges):
    """This includes a server without range requests, except for Parquet, which is read from its end."""
    site.ranges = ranges
    parquet = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"a": range(2000)}), parquet, row_group_size=300)
    site.files["/rows.parquet"] = parquet.getvalue().to_pybytes()
    source = config(f"http://{site.host}/{name}", buffer=900)
    if name == "rows.parquet" and not ranges:
        with pytest.raises(SftError) as caught:
            streamed(source)
        assert str(caught.value) == (
            f"data.mix.mine.path: the server of 'http://{site.host}/rows.parquet' sends no byte ranges, which reading "
            f"such a file needs\n  fix: data.mix.mine.stream=false downloads it"
        )
        return
    through = streamed(source)
    assert [len(rows) for rows, _ in through] == [900, 900, 200]
    assert sorted(values["a"] for rows, _ in through for _, _, values in rows) == list(range(2000))
    for index, (_, state) in enumerate(through):
        assert streamed(source, state=state) == through[index + 1 :]
    assert not (tmp_path / "home").exists()


def test_resumed_stream_reads_only_the_remaining_rows(site):
    """Only the rest of the file is requested."""
    site.files["/long.jsonl"] = b"".join(b'{"a": "%s"}\n' % (b"x" * 1000) for _ in range(9000))
    source = config(f"http://{site.host}/long.jsonl", rows=8900, buffer=8890)
    first, _ = streamed(source)
    requested = []
    real = remote.RemoteFile.open

    def counted(self, mode="rb"):
        opened = real(self, mode)
        read = opened.raw.readinto

        def readinto(buffer):
            requested.append(opened.raw.tell())
            return read(buffer)

        opened.raw.readinto = readinto
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.RemoteFile, "open", counted)
        (last,) = streamed(source, state=first[1])
    assert len(last[0]) == 10
    assert min(requested) == first[1]["position"][2]


def test_version_changed_on_the_server(site):
    source = config(f"http://{site.host}/d/rows.jsonl", buffer=10)
    result = stream_blocks(source, "mine", "train", 1)
    next(result)
    site.version = 2
    with pytest.raises(SftError) as caught:
        next(result)
    assert str(caught.value) == (
        "rows.jsonl: the file changed on the server while it was read\n  fix: run the command again"
    )


def test_local_file_changed_during_a_stream(tmp_path):
    path = write(tmp_path, "jsonl", range(30))
    result = stream_blocks(config(path), "mine", "train", 1)
    next(result)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(SftError, match="the file changed while it was read"):
        next(result)


def test_local_file_changed_before_the_next_is_read(tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text('{"a": 1}\n')
    real = streaming._records

    def then_changed(entry, last, end):
        yield from real(entry, last, end)
        if not changed:
            changed.append(entry.label)
            entry.file.write_text('{"a": 12}\n')

    changed = []
    monkeypatch.setattr(streaming, "_records", then_changed)
    with pytest.raises(SftError, match="the file changed while it was read") as caught:
        next(stream_blocks(config(tmp_path), "mine", "train", 1))
    assert [caught.value.where] == changed


def test_stream_inputs(site, tmp_path):
    """Remote files are identified by the version from the server, local files by their digest."""
    path = write(tmp_path, "jsonl", range(3))
    assert source_fingerprint(config(path), "mine") == source_fingerprint(SourceConfig(path=str(path)), "mine")
    result = source_fingerprint(config(f"http://{site.host}/d/rows.jsonl"), "mine")
    size = len(site.files["/d/rows.jsonl"])
    assert result == {"train": {"files": [["rows.jsonl", f'ETag="1", size={size}']]}}
    assert site.gets == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.json",
            "[]",
            "rows.json: the file is one JSON document, which is read as a whole and cannot be streamed\n"
            "  fix: data.mix.mine.stream=false, or write it as JSON lines (.jsonl)",
        ),
        (
            "rows.jsonl",
            "\n",
            "rows.jsonl: the source holds no rows\n  fix: write rows into it or remove it from the mix",
        ),
    ],
)
def test_unstreamable_sources(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(SftError) as caught:
        streamed(config(name))
    assert str(caught.value) == message


def test_all_held_out_rows_are_streamed(tmp_path):
    path = write(tmp_path, "csv", range(30))
    source = SourceConfig(path=str(path), validation_path=str(path), stream=True, max_rows=4, shuffle_buffer=8)
    sizes = [[len(block.rows) for block in stream_blocks(source, "mine", side, 1)] for side in ("train", "validation")]
    assert sizes == [[4], [8, 8, 8, 6]]
