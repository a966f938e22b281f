"""Files on web servers: each version is downloaded once, locations have file names, and no message shows a secret."""

import base64
import json
import shutil
from importlib.util import find_spec

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import remote
from sft_cli.data.sources.source_rows import read_source, source_fingerprint, source_slices
from sft_cli.data.sources.streaming import stream_blocks
from sft_cli.errors import SftError
from tests.data.web_server import ROWS, clear_remote_caches, row_values, source_error


@pytest.mark.parametrize("ranges", [True, False])
def test_web_file_equals_local_file(site, tmp_path, ranges):
    """Rows, locations and the fingerprint are equal; a location has the name of the file."""
    site.ranges = ranges
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    url = f"http://{site.host}/d/rows.jsonl"
    assert row_values(url) == [(f"rows.jsonl:{number + 1}", number) for number in range(2000)]
    assert source_fingerprint(SourceConfig(path=url), "mine") == source_fingerprint(
        SourceConfig(path="rows.jsonl"), "mine"
    )
    assert row_values(f"http://{site.host}/rows.jsonl.gz")[-1] == ("rows.jsonl.gz:2000", 1999)


def test_version_is_downloaded_once(site):
    url = f"http://{site.host}/d/rows.jsonl"
    for _ in range(3):
        clear_remote_caches()
        row_values(url)
    assert site.gets == ["/d/rows.jsonl"]
    site.files["/d/rows.jsonl"], site.version = b'{"a": -1}\n', 2
    assert len(row_values(url)) == 2000, "one process stays with the version it began with"
    clear_remote_caches()
    assert row_values(url) == [("rows.jsonl:1", -1)]
    assert len(site.gets) == 2


def test_download_without_version_is_repeated_per_process(site):
    site.versions = False
    url = f"http://{site.host}/d/rows.jsonl"
    for _ in range(2):
        clear_remote_caches()
        row_values(url)
        row_values(url)
    assert len(site.gets) == 2


def test_offline_reads_the_downloaded_version(site):
    url = f"http://{site.host}/d/rows.jsonl"
    before = source_fingerprint(SourceConfig(path=url), "mine")
    site.stop()
    clear_remote_caches()
    assert len(row_values(url)) == 2000
    assert source_fingerprint(SourceConfig(path=url), "mine") == before


def test_interrupted_download_leaves_no_file(site, tmp_path):
    site.missing = 100
    assert source_error(path=f"http://{site.host}/d/rows.jsonl") == (
        f"data.mix.mine.path: the connection to {site.host} was lost while "
        f"'http://{site.host}/d/rows.jsonl' was read\n  fix: run the command again"
    )
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_download_with_a_wrong_size_is_refused(site, tmp_path):
    site.promised = 100
    url, size = f"http://{site.host}/d/rows.jsonl", len(ROWS)
    assert source_error(path=url) == (
        f"data.mix.mine.path: only {size:,} of {size + 100:,} bytes of '{url}' arrived\n  fix: run the command again"
    )
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_file_missing_from_the_cache_is_downloaded_again(site, tmp_path):
    url = f"http://{site.host}/d/rows.jsonl"
    row_values(url)
    (kept,) = (path for path in (tmp_path / "home" / "downloads").rglob("*") if path.is_file())
    kept.write_bytes(ROWS[:50])
    clear_remote_caches()
    assert len(row_values(url)) == 2000
    shutil.rmtree(tmp_path / "home")
    clear_remote_caches()
    assert len(row_values(url)) == 2000


@pytest.mark.parametrize(
    ("path", "problem", "fix"),
    [
        ("/nowhere.jsonl", "'{url}' does not exist", "check the address"),
        (
            "/403/",
            "{host} refuses access to '{url}'",
            "give an address that opens without signing in; a signed one may have expired",
        ),
        ("/503", "{host} answered 503 for '{url}'", "run the command again later"),
        (
            "/page.html",
            "'{url}' is a web page, not a data file",
            "data.mix.mine.path=URL of the file itself (on GitHub the raw one; on the hub owner/name, hf://datasets/…)",
        ),
        (
            "/*.jsonl",
            "web servers do not list their files, so '{url}' matches nothing",
            "data.mix.mine.path=URL of the file itself (on GitHub the raw one; on the hub owner/name, hf://datasets/…)",
        ),
    ],
)
def test_web_server_errors(site, path, problem, fix):
    url = f"http://{site.host}{path}"
    output = problem.format(url=url, host=site.host)
    assert source_error(path=url) == f"data.mix.mine.path: {output}\n  fix: {fix}"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {"path": "ftp://host/rows.jsonl"},
            "data.mix.mine.path: ftp:// is not supported; the schemes are https, http, s3, gs, hf\n"
            "  fix: data.mix.mine.path=https://HOST/FILE, or a local path without a scheme",
            id="scheme",
        ),
        pytest.param(
            {"path": "http:///rows.jsonl"},
            "data.mix.mine.path: 'http:///rows.jsonl' has no host\n"
            "  fix: write it as scheme://host/path, such as https://example.org/rows.jsonl or s3://bucket/rows.jsonl",
            id="no-host",
        ),
        pytest.param(
            {"path": "https://me:word@host/rows.jsonl?sign=1", "revision": "main"},
            "data.mix.mine.revision: 'https://host/rows.jsonl' is an address; only hub data sets have a revision\n"
            "  fix: remove data.mix.mine.revision",
            id="revision",
        ),
        pytest.param(
            {"path": "http://127.0.0.1:9/rows.jsonl"},
            "data.mix.mine.path: 127.0.0.1:9 cannot be reached for 'http://127.0.0.1:9/rows.jsonl'\n"
            "  fix: data.mix.mine.path=URL with the right address, or run the command again with a network",
            id="unreachable",
        ),
        pytest.param(
            {"path": "gs://bucket/rows.jsonl"},
            "data.mix.mine.path: gs:// needs gcsfs, which is not installed\n  fix: pip install 'sft-cli[remote]'",
            id="package",
            marks=pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed"),
        ),
    ],
)
def test_unusable_addresses_are_refused_offline(site, config, expected):
    assert source_error(**config) == expected


def test_remote_file_of_unknown_kind_is_not_downloaded(site):
    assert source_error(path=f"http://{site.host}/rows.xlsx").startswith(
        "data.mix.mine.path: the suffix of 'rows.xlsx' is not supported\n"
    )
    assert site.gets == []


def test_split_of_a_web_file(site):
    url = f"http://{site.host}/d/rows.jsonl"
    assert source_error(path=url, split="test").startswith(
        f"data.mix.mine.path: split 'test' is set, but '{url}' has no splits\n"
    )


@pytest.mark.parametrize("path", ["d/rows.jsonl", "nowhere.jsonl", "403", "page.html", "503"])
def test_secrets_are_not_shown_or_stored(site, tmp_path, path):
    """No password or signature is in errors, labels, fingerprints, representations or file names."""
    url = f"http://me:pass-word@{site.host}/{path}?X-Amz-Signature=sign-ature"
    config = SourceConfig(path=url)
    output = []
    try:
        output += [row.where for row in read_source(config, "mine", "train")]
        output += [json.dumps(source_fingerprint(config, "mine")), repr(source_slices(config, "mine", "train"))]
        output += [repr(remote.find_files(url, "key"))]
    except SftError as error:
        output += [str(error), repr(error.__cause__), repr(error.__context__ if not error.__suppress_context__ else "")]
    output += [str(result) for result in (tmp_path / "home").rglob("*")]
    assert output
    assert not any(secret in text for text in output for secret in ("pass-word", "sign-ature", "me:"))


@pytest.mark.parametrize("ranges", [True, False])
def test_password_is_read_from_netrc(site, tmp_path, monkeypatch, ranges):
    site.password, site.ranges = base64.b64encode(b"me:pass-word").decode(), ranges
    config = SourceConfig(path=f"http://{site.host}/d/rows.jsonl")
    assert source_error(path=config.path).startswith("data.mix.mine.path: 127.0.0.1")
    clear_remote_caches()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pass-word\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(list(read_source(config, "mine", "train"))) == 2000
    config.stream, config.max_rows = True, 5
    assert len(next(stream_blocks(config, "mine", "train", 1)).rows) == 5


def test_masked_address_reads_only_the_stored_download(site):
    whole, masked = (SourceConfig(path=f"http://{site.host}/d/rows.jsonl?sig={word}") for word in ("word", "***"))
    expected = "data.mix.mine.path: the signature of 'http://{host}/d/rows.jsonl' is not stored with a run\n"
    assert source_error(path=masked.path).startswith(expected.format(host=site.host))
    rows = list(read_source(whole, "mine", "train"))
    clear_remote_caches()
    requested = len(site.gets)
    assert list(read_source(masked, "mine", "train")) == rows
    assert source_fingerprint(masked, "mine") == source_fingerprint(whole, "mine")
    masked.stream, masked.max_rows = True, 5
    with pytest.raises(SftError, match="is not stored with a run"):
        next(stream_blocks(masked, "mine", "train", 1))
    assert len(site.gets) == requested


def test_downloads_differ_by_signature(site):
    """Addresses with different signatures may name different files, and the server sends no version."""
    site.versions = False
    first, second = (SourceConfig(path=f"http://{site.host}/d/rows.jsonl?token={word}") for word in "ab")
    one = list(read_source(first, "mine", "train"))
    site.files["/d/rows.jsonl"] = b'{"a": "other"}\n'
    clear_remote_caches()
    assert len(list(read_source(second, "mine", "train"))) == 1
    site.stop()
    clear_remote_caches()
    assert list(read_source(first, "mine", "train")) == one


def test_stream_requires_a_network(site):
    """A stream does not read a stored download, whose rows may differ from the manifest."""
    url = f"http://{site.host}/d/rows.jsonl"
    row_values(url)
    site.stop()
    clear_remote_caches()
    with pytest.raises(SftError, match="cannot be reached"):
        next(stream_blocks(SourceConfig(path=url, stream=True, max_rows=5), "mine", "train", 1))
