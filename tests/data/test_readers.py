"""Text and columnar files are read as numbered rows; errors name the line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.data.sources import json_documents, text_files
from sft_cli.errors import SftError
from tests.data.reader_helpers import TEXTS, rows, write


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXTS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(TEXTS, json_values, max_size=3), min_size=1), st.booleans())
def test_json_lines_round_trip(tmp_path_factory, objects, ascii_only):
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_bytes("".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in objects).encode())
    assert rows(text_files.read_json_lines, path) == list(enumerate(objects, start=1))
