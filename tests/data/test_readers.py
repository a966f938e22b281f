"""Text and columnar files are read as numbered rows; errors name the line."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.data.sources import json_documents, text_files
from sft_cli.errors import SftError
from tests.data.reader_helpers import rows, write


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param('{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})], id="lines"),
        pytest.param('\n{"a": 1}\n \n{"a": 2}', [(2, {"a": 1}), (4, {"a": 2})], id="blank-lines-count"),
        pytest.param('{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})], id="windows-line-ends"),
        pytest.param(b'\xef\xbb\xbf{"a": "\xc3\xa9"}', [(1, {"a": "é"})], id="byte-order-mark"),
        pytest.param(
            '{"a": "x\u2028y"}\n{"a": 2}', [(1, {"a": "x\u2028y"}), (2, {"a": 2})], id="line-separator-is-text"
        ),
    ],
)
def test_json_lines(tmp_path, content, expected):
    assert rows(text_files.read_json_lines, write(tmp_path / "rows.jsonl", content)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            b'{"a": 1,}',
            "rows.jsonl:2: invalid JSON at column 9, near '{\"a\": 1,}': a key in double quotes is missing\n"
            "  fix: repair this line; each line holds one JSON object",
            id="comma-too-many",
        ),
        pytest.param(
            b'{"a": "say "hi""}',
            "rows.jsonl:2: invalid JSON at column 13, near '{\"a\": \"say \"hi\"\"}': "
            "a comma is missing, or a quotation mark inside a text lacks its backslash\n"
            "  fix: repair this line; each line holds one JSON object",
            id="quotation-mark",
        ),
        pytest.param(
            b'{"a": "b',
            "rows.jsonl:2: invalid JSON at column 7, near '{\"a\": \"b': a text is opened and never closed\n"
            "  fix: repair this line; each line holds one JSON object",
            id="cut",
        ),
        pytest.param(
            b'{"a": 1} {"a": 2}',
            "rows.jsonl:2: invalid JSON at column 10, near '{\"a\": 1} {\"a\": 2}': "
            "something follows the end of the first value\n  fix: repair this line; each line holds one JSON object",
            id="two-on-a-line",
        ),
        pytest.param(
            b"[" * 100_000,
            "rows.jsonl:2: invalid JSON: nested too deeply\n  fix: repair this line; each line holds one JSON object",
            id="nested",
        ),
        pytest.param(
            b"[1, 2]",
            "rows.jsonl:2: the row is [1, 2], not an object\n"
            '  fix: write {"column": value, …} for each row',
            id="not-an-object",
        ),
        pytest.param(
            b'{"a": "\xe9"}',
            "rows.jsonl:2: byte 0xe9 at position 8 is not UTF-8\n"
            "  fix: data.mix.local.encoding=cp1252 if '{\"a\": \"é\"}' is the right text, or save the file as UTF-8",
            id="latin-1",
        ),
    ],
)  # fmt: skip
def test_invalid_line_is_reported_and_the_next_is_read(tmp_path, line, message):
    path = write(tmp_path / "rows.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 3}\n')
    assert rows(text_files.read_json_lines, path) == [(1, {"a": 0}), (2, message), (3, {"a": 3})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param('[{"a": 1},\n\n{"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})], id="array-counts-elements"),
        pytest.param('{"data": [{"a": 1}], "version": 2}', [(1, {"a": 1})], id="wrapped"),
        pytest.param('{"a": [1, 2], "b": [3, 4]}', [(1, {"a": 1, "b": 3}), (2, {"a": 2, "b": 4})], id="columns"),
        pytest.param('{"messages": [{"role": "user"}]}', [(1, {"messages": [{"role": "user"}]})], id="one-row"),
        pytest.param('{"a": [{}], "b": [{}]}', [(1, {"a": [{}], "b": [{}]})], id="one-row-with-lists-of-objects"),
        pytest.param('{"a": 1}\n\n{"a":\n2}\n', [(1, {"a": 1}), (2, {"a": 2})], id="several-values"),
        pytest.param('{"a": 1},\n{"a": 2},\n', [(1, {"a": 1}), (2, {"a": 2})], id="commas-between-values"),
        pytest.param('{"train": [{"a": 1}], "test": [{"a": 2}]}', [(1, {"a": 1})], id="splits"),
        pytest.param(
            '{"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}}',
            [(1, {"a": 1, "b": 3}), (2, {"a": 2, "b": 4})], id="pandas-by-column",
        ),
        pytest.param(
            '{"0": {"a": 1, "b": 3}, "7": {"a": 2, "b": 4}}',
            [(1, {"a": 1, "b": 3}), (2, {"a": 2, "b": 4})], id="pandas-by-index",
        ),
        pytest.param(
            '{"columns": ["a", "b"], "index": [0, 1], "data": [[1, 3], [2, 4]]}',
            [(1, {"a": 1, "b": 3}), (2, {"a": 2, "b": 4})], id="pandas-split",
        ),
        pytest.param('{"schema": {}, "data": [{"a": 1}]}', [(1, {"a": 1})], id="pandas-table"),
        pytest.param(
            '{"talk": [{"from": "human", "value": "Q"}], "id": 1}',
            [(1, {"talk": [{"from": "human", "value": "Q"}], "id": 1})], id="one-row-of-turns",
        ),
        pytest.param(
            '[{"a": 1}, 7]',
            [
                (1, {"a": 1}),
                (2, 'rows.json[1]: the row is 7, not an object\n  fix: write {"column": value, …} for each row'),
            ],
            id="element-that-is-no-object",
        ),
    ],
)  # fmt: skip
def test_json_document(tmp_path, content, expected):
    assert rows(json_documents.read_json, write(tmp_path / "rows.json", content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            '[\n{"a": 1}\n{"a": 2}]',
            'rows.json:3: invalid JSON at column 1, near \'[\\n{"a": 1}\\n{"a": 2}]\': '
            "a comma is missing, or a quotation mark inside a text lacks its backslash\n"
            "  fix: repair the file; it is read as a whole",
            id="invalid",
        ),
        pytest.param(
            '{"a": 1},,{"a": 2}',
            'rows.json:1: invalid JSON at column 9, near \'{"a": 1},,{"a": 2}\': a value is missing or misspelt\n'
            "  fix: repair the file; it is read as a whole",
            id="two-commas",
        ),
        pytest.param(
            '{"version": 1, "examples": [{"a": 1}]}',
            "rows.json: the file is one object with the keys version, examples; its rows seem to be under 'examples'\n"
            "  fix: write the rows as an array of objects",
            id="under-a-key",
        ),
        pytest.param(
            "3",
            "rows.json: the file holds 3, not rows\n  fix: write an array of objects, one for each row",
            id="number",
        ),
        pytest.param(
            b'["\xff"]',
            "rows.json: byte 0xff at position 3 is not UTF-8\n"
            "  fix: data.mix.local.encoding=cp1252 if '[\"ÿ\"]' is the right text, or save the file as UTF-8",
            id="not-utf8",
        ),
        pytest.param(
            '[{"a": 1}]'.encode("utf-16"),
            "rows.json: the file is UTF-16, not UTF-8\n  fix: data.mix.local.encoding=utf-16, or save it as UTF-8",
            id="utf16",
        ),
    ],
)
def test_invalid_document_is_an_error(tmp_path, content, message):
    with pytest.raises(SftError) as caught:
        rows(json_documents.read_json, write(tmp_path / "rows.json", content))
    assert str(caught.value) == message


def test_csv_rows_are_numbered_by_their_first_line(tmp_path):
    content = 'q,a\n"two\nlines",b\n\n"with ""quotes"", and comma",é\nplain,\n'
    assert rows(text_files.read_csv, write(tmp_path / "rows.csv", content)) == [
        (2, {"q": "two\nlines", "a": "b"}),
        (5, {"q": 'with "quotes", and comma', "a": "é"}),
        (6, {"q": "plain", "a": ""}),
    ]


def test_csv_of_a_spreadsheet(tmp_path):
    path = write(tmp_path / "rows.csv", b"\xef\xbb\xbfq,a\r\n1,2\r\n")
    assert rows(text_files.read_csv, path) == [(2, {"q": "1", "a": "2"})]


def test_csv_field_longer_than_the_limit_of_python(tmp_path):
    path = write(tmp_path / "rows.csv", "text\n" + "x" * 200_000 + "\n")
    assert rows(text_files.read_csv, path) == [(2, {"text": "x" * 200_000})]


def test_tab_separated_values(tmp_path):
    path = write(tmp_path / "rows.tsv", "q\ta\n1,5\t2\n")
    assert rows(text_files.read_tsv, path) == [(2, {"q": "1,5", "a": "2"})]


def test_invalid_csv_record_is_reported_and_the_next_is_read(tmp_path):
    path = write(tmp_path / "rows.csv", 'q,a\n1,2,3\n"x"y,2\n1\n5,6\n"open,2\n')
    quoting = 'double every quotation mark inside a quoted field ("") and close every quoted field'
    fields = 'put fields with commas or line breaks in double quotes ("…")'
    assert rows(text_files.read_csv, path) == [
        (2, f"rows.csv:2: 3 fields under a header of 2\n  fix: {fields}"),
        (3, f"rows.csv:3: not valid CSV: ',' expected after '\"'\n  fix: {quoting}"),
        (4, f"rows.csv:4: 1 fields under a header of 2\n  fix: {fields}"),
        (5, {"q": "5", "a": "6"}),
        (6, f"rows.csv:6: not valid CSV: unexpected end of data\n  fix: {quoting}"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "q,a,q\n",
            "rows.csv:1: the header has 'q' twice\n  fix: write a name of its own for each column",
            id="twice",
        ),
        pytest.param(
            ",,\n", "rows.csv:1: the header is empty\n  fix: write the column names in the first line", id="no-name"
        ),
        pytest.param(
            "q;a\n1;2\n",
            "rows.csv:1: the header is one column, 'q;a'; its delimiter seems to be ';'\n"
            "  fix: 'data.mix.local.delimiter=;'",
            id="semicolons",
        ),
        pytest.param(
            b"q,a\n1,2\n\xe9,3\n",
            "rows.csv:3: byte 0xe9 at position 1 is not UTF-8\n"
            "  fix: data.mix.local.encoding=cp1252 if 'é,3' is the right text, or save the file as UTF-8",
            id="latin-1",
        ),
        pytest.param(
            'q,"a\n',
            "rows.csv:1: not valid CSV: unexpected end of data\n"
            '  fix: double every quotation mark inside a quoted field ("") and close every quoted field',
            id="open-quote-in-header",
        ),
    ],
)
def test_csv_without_a_valid_header_is_an_error(tmp_path, content, message):
    with pytest.raises(SftError) as caught:
        rows(text_files.read_csv, write(tmp_path / "rows.csv", content))
    assert str(caught.value) == message


def zst(content, level=3):
    return pyarrow.Codec("zstd", compression_level=level).compress(content, asbytes=True)


LINES = b"".join(b'{"a": %d}\n' % number for number in range(20_000))


@pytest.mark.parametrize(
    ("ending", "packed"),
    [
        pytest.param(".gz", gzip.compress(LINES), id="gz"),
        pytest.param(".gz", gzip.compress(LINES[:700]) + gzip.compress(LINES[700:]), id="gz-in-two-members"),
        pytest.param(".zst", zst(LINES), id="zst"),
        pytest.param(".zst", zst(LINES[:700]) + zst(LINES[700:]), id="zst-in-two-frames"),
        pytest.param(".bz2", bz2.compress(LINES), id="bz2"),
        pytest.param(".bz2", bz2.compress(LINES[:700]) + bz2.compress(LINES[700:]), id="bz2-in-two-streams"),
        pytest.param(".xz", lzma.compress(LINES), id="xz"),
        pytest.param(".xz", lzma.compress(LINES[:700]) + lzma.compress(LINES[700:]), id="xz-in-two-streams"),
    ],
)
def test_all_compressed_lines_are_read(tmp_path, ending, packed):
    read = rows(text_files.read_json_lines, write(tmp_path / f"rows.jsonl{ending}", packed))
    assert read == [(number + 1, {"a": number}) for number in range(20_000)]


@pytest.mark.parametrize(
    ("ending", "packed", "reason"),
    [
        pytest.param(
            ".gz",
            gzip.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-gz",
        ),
        pytest.param(".zst", zst(LINES)[:-20], "Truncated compressed stream", id="cut-zst"),
        pytest.param(".gz", LINES, "Not a gzipped file (b'{\"')", id="not-gz"),
        pytest.param(".zst", LINES, "ZSTD decompress failed: Unknown frame descriptor", id="not-zst"),
        pytest.param(
            ".bz2",
            bz2.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-bz2",
        ),
        pytest.param(".bz2", LINES, "Invalid data stream", id="not-bz2"),
        pytest.param(
            ".xz",
            lzma.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-xz",
        ),
        pytest.param(".xz", LINES, "Input format not supported by decoder", id="not-xz"),
    ],
)
def test_damaged_archive_is_an_error(tmp_path, ending, packed, reason):
    path = write(tmp_path / f"rows.jsonl{ending}", packed)
    with pytest.raises(SftError) as caught:
        rows(text_files.read_json_lines, path)
    assert str(caught.value) == (
        f"rows.jsonl{ending}: cannot be read: {reason}\n"
        "  fix: download or write the file again; it is incomplete or broken"
    )


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(texts, texts), min_size=1))
def test_csv_round_trip_with_line_numbers(tmp_path_factory, table):
    """For any cells, including line breaks, the number of a record is its first line."""
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL)
    starts = []
    for record in [("q", "a"), *table]:
        starts.append(written.getvalue().count("\n") + 1)
        writer.writerow(record)
    path.write_bytes(written.getvalue().encode())
    assert rows(text_files.read_csv, path) == [
        (start, {"q": q, "a": a}) for start, (q, a) in zip(starts[1:], table, strict=True)
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(texts, json_values, max_size=3), min_size=1), st.booleans())
def test_json_lines_round_trip(tmp_path_factory, objects, ascii_only):
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_bytes("".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in objects).encode())
    assert rows(text_files.read_json_lines, path) == list(enumerate(objects, start=1))
