"""Paths of sources: files, globs, directories, splits; errors list what exists."""

import gzip
import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources.locate import is_hub_dataset
from sft_cli.data.sources.source_rows import BadRow, has_validation, read_source, source_fingerprint
from sft_cli.errors import SftError
from sft_cli.types import Row
from tests.data.helpers import message, places, write

pytestmark = pytest.mark.usefixtures("in_an_empty_directory")


def test_prepared_row_has_location_and_source(tmp_path):
    write(tmp_path, "rows.jsonl")
    assert list(read_source(SourceConfig(path="rows.jsonl"), "mine", "train")) == [
        Row(values={"text": "rows.jsonl"}, where="rows.jsonl:1", source="mine")
    ]


def test_invalid_row_does_not_stop_the_others(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\nnonsense\n{"text": "b"}\n')
    first, broken, last = read_source(SourceConfig(path="rows.jsonl"), "mine", "train")
    assert (first.where, last.where) == ("rows.jsonl:1", "rows.jsonl:3")
    assert isinstance(broken, BadRow)
    assert isinstance(broken.error, RowError)
    assert (broken.where, broken.source, broken.error.reason) == ("rows.jsonl:2", "mine", "invalid JSON")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("a/x.jsonl", {"x.jsonl:1": "a/x.jsonl"}, id="file"),
        pytest.param("a/*.jsonl", {"x.jsonl:1": "a/x.jsonl", "y.jsonl:1": "a/y.jsonl"}, id="glob-in-one-directory"),
        pytest.param("*/x.jsonl", {"a/x.jsonl:1": "a/x.jsonl", "b/x.jsonl:1": "b/x.jsonl"}, id="same-name-twice"),
        pytest.param("a/[x].jsonl", {"x.jsonl:1": "a/x.jsonl"}, id="glob-of-one"),
        pytest.param("**/y.jsonl", {"y.jsonl:1": "a/y.jsonl"}, id="recursive"),
        pytest.param("a", {"x.jsonl:1": "a/x.jsonl", "y.jsonl:1": "a/y.jsonl"}, id="directory"),
        pytest.param("b", {"deep/z.jsonl:1": "b/deep/z.jsonl", "x.jsonl:1": "b/x.jsonl"}, id="directory-in-directory"),
    ],
)
def test_paths(tmp_path, path, expected):
    write(tmp_path, "a/x.jsonl", "a/y.jsonl", "b/x.jsonl", "b/deep/z.jsonl")
    (tmp_path / "a" / "README.md").write_text("not data")
    assert list(places(path=path).items()) == sorted(expected.items())


def test_file_name_that_looks_like_a_glob(tmp_path):
    write(tmp_path, "rows[1].jsonl")
    assert places(path="rows[1].jsonl") == {"rows[1].jsonl:1": "rows[1].jsonl"}


@pytest.mark.parametrize("path", ["d/rows.jsonl", "d", "d/*.jsonl", "s", "p", "p/*/rows.jsonl"])
def test_labels_and_fingerprint_do_not_depend_on_the_path_form(tmp_path, monkeypatch, path):
    """The cache is keyed by content, so the labels of rows must depend on it alone."""
    write(tmp_path, "d/rows.jsonl", "p/x/rows.jsonl", "p/y/rows.jsonl")
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "s")
    folder, _, rest = path.partition("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = [path, f"./{path}", str(tmp_path / path), f"{folder}/../{path}", f"~/{path}"]
    seen = [
        (places(path=configured), source_fingerprint(SourceConfig(path=configured), "mine")) for configured in typed
    ]
    monkeypatch.chdir(tmp_path / folder)
    seen.append((places(path=rest or "."), source_fingerprint(SourceConfig(path=rest or "."), "mine")))
    assert all(result == seen[0] for result in seen[1:])
    assert set(seen[0][0]) in ({"rows.jsonl:1"}, {"s:1"}, {"x/rows.jsonl:1", "y/rows.jsonl:1"})


def test_rows_with_other_labels_have_another_fingerprint(tmp_path):
    """The bytes are equal but the locations differ, so the rows must not share a cache entry."""
    for name in ("one/x.jsonl", "two/deep/x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    result = [json.dumps(source_fingerprint(SourceConfig(path=path), "mine")) for path in ("one", "two", "s", "t")]
    assert len(set(result)) == 4
    assert source_fingerprint(SourceConfig(path="one"), "mine") == source_fingerprint(
        SourceConfig(path="two/deep"), "mine"
    )


def test_validation_path(tmp_path):
    write(tmp_path, "rows.jsonl", "held_out.jsonl")
    config = {"path": "rows.jsonl", "validation_path": "held_out.jsonl"}
    assert places("validation", **config) == {"held_out.jsonl:1": "held_out.jsonl"}
    assert has_validation(SourceConfig(**config))
    assert not has_validation(SourceConfig(path="rows.jsonl"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {}, "data.mix.mine.path: the source has no path\n  fix: data.mix.mine.path=rows.jsonl", id="no-path"
        ),
        pytest.param(
            {"path": "d/trian.jsonl"},
            "data.mix.mine.path: 'd/trian.jsonl' does not exist\n  fix: did you mean data.mix.mine.path=d/train.jsonl?",
            id="misspelt",
        ),
        pytest.param(
            {"path": "d/other"},
            "data.mix.mine.path: 'd/other' does not exist\n"
            "  fix: data.mix.mine.path=FILE; 'd' holds test.jsonl, train.jsonl",
            id="nothing-near",
        ),
        pytest.param(
            {"path": "dat/x/rows.jsonl"},
            "data.mix.mine.path: 'dat/x/rows.jsonl' does not exist: there is no directory 'dat'\n"
            "  fix: data.mix.mine.path=FILE; '.' holds d, mixed, stray, bad.doc, nothing, header.csv, empty.jsonl",
            id="no-directory",
        ),
        pytest.param(
            {"path": "d/*.json"},
            "data.mix.mine.path: no file matches 'd/*.json'\n"
            "  fix: data.mix.mine.path=FILE; 'd' holds test.jsonl, train.jsonl",
            id="glob",
        ),
        pytest.param(
            {"path": "bad.doc"},
            "data.mix.mine.path: the suffix of 'bad.doc' is not supported\n"
            "  fix: data.mix.mine.path=FILE with one of the suffixes .json, .jsonl, .ndjson, .csv, .tsv,"
            " .parquet, .arrow, .txt, .md;"
            " all but .parquet and .arrow also with .gz, .zst, .bz2 or .xz",
            id="ending",
        ),
        pytest.param(
            {"path": "nothing"},
            "data.mix.mine.path: 'nothing' holds no data file\n"
            "  fix: data.mix.mine.path=FILE with one of the suffixes .json, .jsonl, .ndjson, .csv, .tsv,"
            " .parquet, .arrow, .txt, .md;"
            " all but .parquet and .arrow also with .gz, .zst, .bz2 or .xz",
            id="directory-without-data",
        ),
        pytest.param(
            {"path": "mixed/"},
            "data.mix.mine.path: 'mixed/' holds several kinds of files: .csv, .jsonl\n"
            "  fix: name those to read, as in 'data.mix.mine.path=mixed/*.csv'",
            id="two-kinds",
        ),
        pytest.param(
            {"path": "stray"},
            "data.mix.mine.path: 'stray' has splits train, but 'more.jsonl' is in none\n"
            "  fix: move that file, or name the files to read: 'data.mix.mine.path=stray/*.jsonl'",
            id="stray",
        ),
        pytest.param(
            {"path": "empty.jsonl"},
            "empty.jsonl: the source holds no rows\n  fix: write rows into it or remove it from the mix",
            id="empty",
        ),
        pytest.param(
            {"path": "header.csv"},
            "header.csv: the source holds no rows\n  fix: write rows into it or remove it from the mix",
            id="only-a-header",
        ),
        pytest.param(
            {"path": "d", "split": "tran"},
            "data.mix.mine.path: 'd' has no split 'tran'; it has test, train\n  fix: data.mix.mine.split=train",
            id="no-such-split",
        ),
        pytest.param(
            {"path": "d/train.jsonl", "split": "test"},
            "data.mix.mine.path: split 'test' is set, but 'd/train.jsonl' has no splits\n"
            "  fix: remove data.mix.mine.split, or data.mix.mine.validation_path=FILE for held-out rows",
            id="split-of-a-file",
        ),
        pytest.param(
            {"path": "d/train.jsonl", "revision": "main"},
            "data.mix.mine.revision: 'd/train.jsonl' is a local path; only hub data sets have a revision\n"
            "  fix: remove data.mix.mine.revision",
            id="revision-of-a-file",
        ),
        pytest.param(
            {"path": "d", "validation_path": "x", "validation_split": "y"},
            "data.mix.mine.validation_split: validation_path is set as well, but only one of them can be read\n"
            "  fix: remove data.mix.mine.validation_path or data.mix.mine.validation_split",
            id="two-validations",
        ),
        pytest.param(
            {"path": "builtin:nowhere/rows.jsonl"},
            None,
            id="builtin",
        ),
    ],
)
def test_unreadable_sources(tmp_path, config, expected):
    write(
        tmp_path,
        "d/train.jsonl",
        "d/test.jsonl",
        "mixed/a.csv",
        "mixed/a.jsonl",
        "stray/train.jsonl",
        "stray/more.jsonl",
    )
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bad.doc").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "header.csv").write_text("a,b\n")
    result = message(**config)
    if expected is None:
        assert result.startswith(
            "data.mix.mine.path: 'builtin:nowhere/rows.jsonl' does not exist: there is no directory "
        )
    else:
        assert result == expected


@pytest.mark.parametrize(
    ("path", "certain", "expected"),
    [
        pytest.param("owner/name", False, True, id="owner-name"),
        pytest.param("here/name", False, False, id="below-a-directory-that-exists"),
        pytest.param("here/name", True, True, id="with-a-revision"),
        pytest.param("here/there", True, False, id="exists"),
        pytest.param("owner/name.jsonl", False, False, id="data-file"),
        pytest.param("owner/name.jsonl.gz", False, False, id="packed-data-file"),
        pytest.param("owner/name/more", False, False, id="three-parts"),
        pytest.param("name", False, False, id="one-part"),
        pytest.param("../name", False, False, id="above"),
        pytest.param("/owner/name", False, False, id="absolute"),
        pytest.param("owner/*", False, False, id="glob"),
    ],
)
def test_is_hub_dataset_by_shape_of_the_path(tmp_path, path, certain, expected):
    (tmp_path / "here" / "there").mkdir(parents=True)
    assert is_hub_dataset(path, certain=certain) is expected


def test_fingerprint_follows_the_bytes(tmp_path):
    write(tmp_path, "d/train.jsonl", "d/test.jsonl")
    config = SourceConfig(path="d", validation_split="test")
    before = source_fingerprint(config, "mine")
    assert before == source_fingerprint(config, "mine")
    (tmp_path / "d" / "test.jsonl").write_text('{"text": "other"}')
    after = source_fingerprint(config, "mine")
    assert after["train"] == before["train"]
    assert after["validation"] != before["validation"]


def test_fingerprint_is_independent_of_the_directory(tmp_path):
    write(tmp_path, "d/train.jsonl")
    shutil.copytree(tmp_path / "d", tmp_path / "e" / "f")
    paths = ("d/train.jsonl", str(tmp_path / "d" / "train.jsonl"), "d", "d/*.jsonl", "e/f/train.jsonl")
    result = [source_fingerprint(SourceConfig(path=path), "mine") for path in paths]
    assert result == [result[0]] * len(paths)


def test_reading_streams(tmp_path):
    """The first row is returned before an invalid end of the file is read."""
    lines = b'{"text": "a"}\n' * 200_000
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines)[:-9])
    rows = read_source(SourceConfig(path="rows.jsonl.gz"), "mine", "train")
    assert next(rows).where == "rows.jsonl.gz:1"
    with pytest.raises(SftError, match=r"^rows\.jsonl\.gz: cannot be read"):
        list(rows)


def test_suffixes_in_capitals(tmp_path):
    table = pyarrow.table({"text": ["a"]})
    pyarrow.parquet.write_table(table, tmp_path / "ROWS.PARQUET")
    assert places(path="ROWS.PARQUET") == {"ROWS.PARQUET:1": "a"}
