"""Rows of CSV and TSV files."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.data.sources import text_files
from sft_cli.errors import SftError
from tests.data.reader_helpers import TEXTS, rows, write


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


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1))
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
