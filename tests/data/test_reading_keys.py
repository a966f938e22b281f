"""Files of other programs: delimiters, encodings, JSON with other suffixes, rows under a key; and advice."""

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.config.rules.data import check_source_keys
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import slices, source_rows
from sft_cli.errors import SftError
from sft_cli.prepare.rows_stage import first_columns

PAIRS = [{"q": "Où ?", "a": "À Liège; près de la gare."}, {"q": "Combien ?", "a": "Trois"}]


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def take(path, side="train", **config):
    """Return locations and columns of a source's rows; errors as text."""
    config = SourceConfig(path=str(path), **config)
    return [
        (row.where, str(row.error) if isinstance(row, slices.BadRow) else dict(row.values))
        for row in source_rows.read_source(config, "mine", side)
    ]


def refusal(path, **config):
    with pytest.raises(SftError) as caught:
        take(path, **config)
    return str(caught.value)


def pasted(fix):
    """Return the settings that an advice contains."""
    return dict(word.removeprefix("data.mix.mine.").split("=", 1) for word in shlex.split(fix))


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_advised_delimiter_reads_the_file(tmp_path, delimiter):
    lines = [
        ["q", "a"],
        ["Où ?", '"À Liège; près de la gare."' if delimiter == ";" else PAIRS[0]["a"]],
        ["Combien ?", "Trois"],
    ]
    path = write(tmp_path / "rows.csv", "\ufeff" + "\n".join(delimiter.join(cells) for cells in lines))
    output = refusal(path)
    assert output.startswith(
        f"rows.csv:1: the header is one column, {delimiter.join(['q', 'a'])!r}; its delimiter seems to be "
    )
    config = pasted(output.partition("fix: ")[2])
    assert take(path, **config) == [("rows.csv:2", PAIRS[0]), ("rows.csv:3", PAIRS[1])]


def test_tab_has_two_spellings(tmp_path):
    path = write(tmp_path / "rows.csv", "q\ta\n1\t2\n")
    for typed in ("tab", "\\t", "\t"):
        assert take(path, delimiter=typed) == [("rows.csv:2", {"q": "1", "a": "2"})]


def test_unnamed_column_is_an_index(tmp_path):
    path = write(tmp_path / "rows.csv", ",q,a\n0,x,y\n1,z,w\n")
    assert take(path)[0] == ("rows.csv:2", {"Unnamed: 0": "0", "q": "x", "a": "y"})
    path = write(tmp_path / "rows.csv", "q,a,\nx,y,\nx,y,note\n")
    assert [values for _, values in take(path)] == [
        {"q": "x", "a": "y", "Unnamed: 2": ""},
        "rows.csv:3: column 3 has no name in the header, but holds 'note'\n  fix: write its name in the first line",
    ]


ENCODED = [("cp1252", ".jsonl"), ("latin-1", ".csv"), ("utf-16", ".jsonl"), ("utf-16-le", ".csv"), ("utf-16", ".json"),
           ("utf-32", ".jsonl"), ("cp1252", ".txt"), ("utf-16", ".jsonl.gz")]  # fmt: skip


@pytest.mark.parametrize(("encoding", "ending"), ENCODED)
def test_named_encoding_is_read(tmp_path, encoding, ending):
    import gzip

    text = {
        ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS),
        ".json": json.dumps(PAIRS, ensure_ascii=False),
        ".csv": "q,a\n" + "".join(f'{row["q"]},"{row["a"]}"\n' for row in PAIRS),
        ".txt": PAIRS[0]["a"],
    }[ending.removesuffix(".gz")]
    content = text.encode(encoding)
    path = write(tmp_path / f"rows{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    result = [values for _, values in take(path, encoding=encoding)]
    assert result == ([{"text": text}] if ending == ".txt" else PAIRS)


def _is_utf8(content):
    """Return whether non-ASCII bytes are also valid UTF-8."""
    try:
        return not content.decode("utf-8").isascii()
    except UnicodeDecodeError:
        return False


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(alphabet=st.characters(codec="cp1252", exclude_categories=["Cc"]), min_size=1), min_size=1),
    st.sampled_from(["cp1252", "utf-16", "utf-16-be", "utf-8"]),
)
def test_lines_in_any_encoding_give_the_same_rows(tmp_path_factory, texts, encoding):
    content = "".join(json.dumps({"a": text}, ensure_ascii=False) + "\n" for text in texts)
    path = write(tmp_path_factory.mktemp("encoded") / "rows.jsonl", content, encoding)
    both = encoding == "cp1252" and any(_is_utf8(text.encode(encoding)) for text in texts)
    if both:
        assert "the line is UTF-8" in refusal(path, encoding=encoding)
        return
    assert take(path, encoding=encoding) == [
        (f"rows.jsonl:{number}", {"a": text}) for number, text in enumerate(texts, start=1)
    ]


def test_advised_encoding_reads_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "rows.jsonl", json.dumps(PAIRS[0], ensure_ascii=False), "cp1252")
    ((where, output),) = take(path)
    assert where == "rows.jsonl:1"
    assert output.endswith(
        "fix: data.mix.mine.encoding=cp1252 if "
        '\'{"q": "Où ?", "a": "À Liège;\' is the right text, or save the file as UTF-8'
    )
    assert take(path, encoding="cp1252") == [("rows.jsonl:1", PAIRS[0])]


@pytest.mark.parametrize(
    ("encoding", "advised"), [("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")]
)
def test_utf16_is_recognized(tmp_path, encoding, advised):
    path = write(tmp_path / "rows.csv", "q,a\nx,y\n", encoding)
    output = refusal(path)
    assert (
        output
        == f"rows.csv: the file is UTF-16, not UTF-8\n  fix: data.mix.mine.encoding={advised}, or save it as UTF-8"
    )
    assert take(path, encoding=advised) == [("rows.csv:2", {"q": "x", "a": "y"})]


def test_wrong_encoding_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"a": "é"}\n')
    assert refusal(path, encoding="cp1252").startswith(
        "rows.jsonl:1: the line is UTF-8, but data.mix.mine.encoding is cp1252"
    )
    assert "rows.jsonl:1: the line is not shift_jis" in refusal(
        write(tmp_path / "rows.jsonl", b'{"a": "\xff\xfe"}\n'), encoding="shift_jis"
    )
    assert "the file is not utf-16" in refusal(write(tmp_path / "odd.jsonl", b'{"a": 1}\n'), encoding="utf-16")


UNKNOWN = "which is not a text encoding of Python"
LEFT_OUT = "data.mix.mine.ignore leaves out 'x'"


def test_keys_without_effect_are_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n')
    assert refusal(path, delimiter=";") == (
        "data.mix.mine.delimiter: the key has no effect on .jsonl files\n  fix: remove data.mix.mine.delimiter"
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"delimiter": ";;"}, "data.mix.mine.delimiter is ';;'; it must be one character, or tab"),
        ({"delimiter": '"'}, "data.mix.mine.delimiter is '\"'; it must be one character, or tab"),
        ({"encoding": "latin"}, None),
        ({"encoding": "cp9999"}, f"data.mix.mine.encoding is 'cp9999', {UNKNOWN}"),
        ({"encoding": "base64"}, f"data.mix.mine.encoding is 'base64', {UNKNOWN}"),
        ({"ignore": ["x"], "columns": {"prompt": "x"}}, f"{LEFT_OUT}, and data.mix.mine.columns.prompt reads it"),
        ({"ignore": ["x"], "tags": {"kind": "x"}}, f"{LEFT_OUT}, and data.mix.mine.tags.kind reads it"),
        ({"ignore": ["x", "x"]}, "data.mix.mine.ignore names 'x' twice"),
        ({"ignore": ["x"], "delimiter": "tab", "encoding": "UTF_16"}, None),
    ],
)  # fmt: skip
def test_tool_calls_with_invalid_keys(config, problem):
    result = [
        mistake.problem for mistake in check_source_keys(DataConfig(mix={"mine": SourceConfig(path="x", **config)}))
    ]
    assert result == ([] if problem is None else [problem])


LINES = "".join(json.dumps(row) + "\n" for row in PAIRS)
PRETTY = "".join(json.dumps(row, indent=1) + "\n" for row in PAIRS)
PANDAS = json.dumps({name: {str(number): row[name] for number, row in enumerate(PAIRS)} for name in ("q", "a")})


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        pytest.param("rows.jsonl", json.dumps(PAIRS), "rows.jsonl[{}]", id="list-on-a-line"),
        pytest.param("rows.jsonl", json.dumps(PAIRS, indent=1), "rows.jsonl[{}]", id="list-over-lines"),
        pytest.param("rows.jsonl", PRETTY, "rows.jsonl[{}]", id="objects-over-lines"),
        pytest.param("rows.jsonl", LINES.replace("}\n", "},\n"), "rows.jsonl[{}]", id="commas"),
        pytest.param("rows.json", LINES, "rows.json:{}", id="lines-in-json"),
        pytest.param("rows.json", json.dumps({"train": PAIRS}), "rows.json[{}]", id="train-key"),
        pytest.param("rows.json", PANDAS, "rows.json[{}]", id="pandas"),
    ],
)  # fmt: skip
def test_sniff_kind_ignores_the_json_suffix(tmp_path, name, content, places):
    """Elements of a JSON document are counted from 0 in brackets, unlike lines."""
    first = 1 if ":" in places else 0
    result = take(write(tmp_path / name, content))
    assert result == [(places.format(first + number), row) for number, row in enumerate(PAIRS)]


def test_one_invalid_row_does_not_change_the_kind_of_file(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"q": "cut\n' + LINES)
    assert [where for where, _ in take(path)] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]


def test_advised_key_reads_the_rows(tmp_path):
    path = write(tmp_path / "rows.json", json.dumps({"version": 1, "examples": PAIRS, "few": PAIRS[:1]}))
    output = refusal(path)
    assert output == (
        "rows.json: the file is one object with the keys version, examples, few; its rows seem to be under 'examples'\n"
        "  fix: data.mix.mine.split=examples"
    )
    assert [values for _, values in take(path, **pasted(output.partition("fix: ")[2]))] == PAIRS
    assert refusal(path, split="exampels") == (
        "rows.json: rows.json has no rows under 'exampels'; it is one object with the keys version, examples, few\n"
        "  fix: data.mix.mine.split=examples"
    )


def test_splits_of_one_file(tmp_path):
    path = write(tmp_path / "rows.json", json.dumps({"train": PAIRS, "test": PAIRS[:1]}))
    assert len(take(path)) == 2
    assert take(path, side="validation", validation_split="test") == [("rows.json[0]", PAIRS[0])]
    plain = write(tmp_path / "plain.json", json.dumps(PAIRS))
    config = SourceConfig(path=str(plain), split="test")
    with pytest.raises(SftError, match=r"split 'test' is set, but plain\.json is a list of rows, without splits"):
        list(source_rows.read_source(config, "mine", "train"))


def test_first_columns_raises_the_first_error(tmp_path):
    bad = [
        slices.BadRow(f"a:{line}", "mine", RowError(where=f"a:{line}", reason="r", problem=f"p{line}", fix=f"f{line}"))
        for line in (1, 2)
    ]
    with pytest.raises(SftError) as caught:
        first_columns(bad, [])
    assert str(caught.value) == "a:1: p1 (no row of the source can be read)\n  fix: f1"
    assert first_columns([], []) == ()
