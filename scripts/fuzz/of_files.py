"""Fuzz the file readers with valid, truncated, corrupted and foreign bytes of every kind of file."""

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import source_rows
from sft_cli.data.sources.select import ENDINGS

_ROWS = [{"text": "a", "n": 1}, {"text": "bé", "n": None}, {"text": "c" * 50, "n": 3}]


def _table(packed: Any) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(_ROWS)
    if packed == "parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        with (pa.ipc.new_stream if packed == "stream" else pa.ipc.new_file)(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()
_SOUND = {
    ".jsonl": [_LINES],
    ".ndjson": [_LINES],
    ".json": [json.dumps(_ROWS).encode(), json.dumps({"data": _ROWS}).encode(), b'{"a": [1, 2], "b": [3, 4]}', _LINES],
    ".csv": [b'text,n\n"a ""b""",1\nc,2\n'],
    ".tsv": [b"text\tn\na\t1\n"],
    ".parquet": [_table("parquet")],
    ".arrow": [_table("file"), _table("stream")],
    ".txt": [b"one\n\ntwo\n"],
    ".md": [b"# one\n"],
}
_PACKED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
_PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            b"[" * 3000,
            b'{"a":' * 900,
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\x00",
            b'"',
            b"\r",
            b"\n",
            b"9" * 5000,
            b"NaN",
            b"\\ud800",
        ]
    ),
)
_EDITS = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), _PIECES), max_size=3)


@st.composite
def _files(draw: Any) -> tuple[str, bytes]:
    ending = draw(st.sampled_from(ENDINGS))
    content = draw(st.one_of(st.sampled_from(_SOUND[ending]), st.binary(max_size=40)))
    packing = draw(st.sampled_from(list(_PACKED))) if ending not in (".parquet", ".arrow") else ""
    inside = draw(st.booleans())
    content = _edited(content, draw(_EDITS)) if inside else content
    content = _PACKED[packing](content)
    return ending + packing, content if inside else _edited(content, draw(_EDITS))


def _edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in edits:
        at %= len(content) + 1
        content = content[:at] + put + content[at + cut :]
    return content


INPUTS = st.tuples(_files(), st.sampled_from(["auto", "auto", "auto", "lines"]))


def target(case: tuple[tuple[str, bytes], str]) -> str | None:
    """Read every row of a file."""
    (ending, content), format = case
    file = Path(f"rows{ending}")
    file.write_bytes(content)
    for row in source_rows.read_source(SourceConfig(path=str(file.absolute()), format=format), "a", "train"):
        repr(row)
    return None
