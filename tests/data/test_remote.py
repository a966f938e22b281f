"""Files on servers: fetched once a version, named like files here, and no secret of an address in any word."""

import base64
import gzip
import json
import shutil
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import remote
from sft_cli.data.sources.source_rows import read_source, source_fingerprint, source_slices
from sft_cli.data.sources.streaming import stream_blocks
from sft_cli.errors import SftError

ROWS = b"".join(b'{"a": %d}\n' % number for number in range(2000))


class Server(BaseHTTPRequestHandler):
    """Serves what is in ``files``; counts the requests that ask for a body."""

    def __init__(self, site, *arguments):
        self.site = site
        super().__init__(*arguments)

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, format, *arguments):
        pass

    def _answer(self, body):
        path = self.path.partition("?")[0]
        if self.site.password and self.headers.get("Authorization") != f"Basic {self.site.password}":
            self.send_error(401)
            return
        if path.strip("/").isdigit():
            self.send_error(int(path.strip("/")))
            return
        if path not in self.site.files:
            self.send_error(404)
            return
        content, status = self.site.files[path], 200
        asked = self.headers.get("Range") if self.site.ranges else None
        if asked:
            start, _, stop = asked.removeprefix("bytes=").partition("-")
            content, status = content[int(start) : int(stop) + 1], 206
        self.send_response(status)
        if self.site.versions:
            self.send_header("ETag", f'"{self.site.version}"')
        if path.endswith(".html"):
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content) + self.site.missing + (0 if body else self.site.promised)))
        self.end_headers()
        if body:
            self.site.gets.append(self.path)
            self.wfile.write(content)


class Site:
    """A web server on this machine."""

    def __init__(self):
        self.files = {"/d/rows.jsonl": ROWS, "/rows.jsonl.gz": gzip.compress(ROWS), "/page.html": b"<html>"}
        self.files["/rows.xlsx"] = b"PK"
        self.ranges, self.versions, self.version, self.missing, self.gets = True, True, 1, 0, []
        self.promised, self.password = 0, ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, self))
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def forget():
    """As in a new process."""
    remote.find_files.cache_clear()
    remote.download.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget()
    site = Site()
    yield site
    site.stop()


def values(path):
    return [(row.where, row.values["a"]) for row in read_source(SourceConfig(path=path), "mine", "train")]


def message(**config):
    with pytest.raises(SftError) as caught:
        source_slices(SourceConfig(**config), "mine", "train")
    return str(caught.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_web_file_equals_local_file(site, tmp_path, ranges):
    """The same rows, places by the file's name, and the same fingerprint."""
    site.ranges = ranges
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    url = f"http://{site.host}/d/rows.jsonl"
    assert values(url) == [(f"rows.jsonl:{number + 1}", number) for number in range(2000)]
    assert source_fingerprint(SourceConfig(path=url), "mine") == source_fingerprint(
        SourceConfig(path="rows.jsonl"), "mine"
    )
    assert values(f"http://{site.host}/rows.jsonl.gz")[-1] == ("rows.jsonl.gz:2000", 1999)


def test_a_version_is_fetched_once(site):
    url = f"http://{site.host}/d/rows.jsonl"
    for _ in range(3):
        forget()
        values(url)
    assert site.gets == ["/d/rows.jsonl"]
    site.files["/d/rows.jsonl"], site.version = b'{"a": -1}\n', 2
    assert len(values(url)) == 2000, "one process stays with the version it began with"
    forget()
    assert values(url) == [("rows.jsonl:1", -1)]
    assert len(site.gets) == 2


def test_download_without_version_is_repeated_per_process(site):
    site.versions = False
    url = f"http://{site.host}/d/rows.jsonl"
    for _ in range(2):
        forget()
        values(url)
        values(url)
    assert len(site.gets) == 2


def test_offline_reads_the_downloaded_version(site):
    url = f"http://{site.host}/d/rows.jsonl"
    before = source_fingerprint(SourceConfig(path=url), "mine")
    site.stop()
    forget()
    assert len(values(url)) == 2000
    assert source_fingerprint(SourceConfig(path=url), "mine") == before


def test_a_download_that_breaks_off_leaves_nothing(site, tmp_path):
    site.missing = 100
    assert message(path=f"http://{site.host}/d/rows.jsonl") == (
        f"data.mix.mine.path: the connection to {site.host} was lost while "
        f"'http://{site.host}/d/rows.jsonl' was read\n  fix: run the command again"
    )
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_a_download_of_another_size_than_announced(site, tmp_path):
    site.promised = 100
    url, size = f"http://{site.host}/d/rows.jsonl", len(ROWS)
    assert message(path=url) == (
        f"data.mix.mine.path: only {size:,} of {size + 100:,} bytes of '{url}' arrived\n  fix: run the command again"
    )
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_a_file_lost_from_the_cache_is_fetched_again(site, tmp_path):
    url = f"http://{site.host}/d/rows.jsonl"
    values(url)
    (kept,) = (path for path in (tmp_path / "home" / "downloads").rglob("*") if path.is_file())
    kept.write_bytes(ROWS[:50])
    forget()
    assert len(values(url)) == 2000
    shutil.rmtree(tmp_path / "home")
    forget()
    assert len(values(url)) == 2000


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
            "use the address of the file itself (on GitHub the raw one, on the hub owner/name or hf://datasets/…)",
        ),
        (
            "/*.jsonl",
            "web servers do not list their files, so '{url}' matches nothing",
            "use the address of the file itself (on GitHub the raw one, on the hub owner/name or hf://datasets/…)",
        ),
    ],
)
def test_web_server_errors(site, path, problem, fix):
    url = f"http://{site.host}{path}"
    output = problem.format(url=url, host=site.host)
    assert message(path=url) == f"data.mix.mine.path: {output}\n  fix: {fix}"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {"path": "ftp://host/rows.jsonl"},
            "data.mix.mine.path: ftp:// is not supported; the schemes are https, http, s3, gs, hf\n"
            "  fix: use one of these schemes, or a local path without a scheme",
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
            "  fix: remove revision",
            id="revision",
        ),
        pytest.param(
            {"path": "http://127.0.0.1:9/rows.jsonl"},
            "data.mix.mine.path: 127.0.0.1:9 cannot be reached for 'http://127.0.0.1:9/rows.jsonl'\n"
            "  fix: check the address and the network, then run the command again",
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
    assert message(**config) == expected


def test_remote_file_of_unknown_kind_is_not_downloaded(site):
    assert message(path=f"http://{site.host}/rows.xlsx").startswith(
        "data.mix.mine.path: the suffix of 'rows.xlsx' is not supported\n"
    )
    assert site.gets == []


def test_a_split_of_a_file_on_the_web(site):
    url = f"http://{site.host}/d/rows.jsonl"
    assert message(path=url, split="test").startswith(
        f"data.mix.mine.path: split 'test' is set, but '{url}' has no splits\n"
    )


@pytest.mark.parametrize("path", ["d/rows.jsonl", "nowhere.jsonl", "403", "page.html", "503"])
def test_secrets_are_not_shown_or_stored(site, tmp_path, path):
    """Neither password nor signature: not in errors, labels, fingerprints, representations or names on the disk."""
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
def test_a_password_comes_from_netrc(site, tmp_path, monkeypatch, ranges):
    site.password, site.ranges = base64.b64encode(b"me:pass-word").decode(), ranges
    config = SourceConfig(path=f"http://{site.host}/d/rows.jsonl")
    assert message(path=config.path).startswith("data.mix.mine.path: 127.0.0.1")
    forget()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pass-word\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(list(read_source(config, "mine", "train"))) == 2000
    config.stream, config.max_rows = True, 5
    assert len(next(stream_blocks(config, "mine", "train", 1)).rows) == 5


def test_a_masked_address_is_read_from_what_was_downloaded_and_nothing_else(site):
    whole, masked = (SourceConfig(path=f"http://{site.host}/d/rows.jsonl?sig={word}") for word in ("word", "***"))
    expected = "data.mix.mine.path: the signature of 'http://{host}/d/rows.jsonl' is not stored with a run\n"
    assert message(path=masked.path).startswith(expected.format(host=site.host))
    rows = list(read_source(whole, "mine", "train"))
    forget()
    requested = len(site.gets)
    assert list(read_source(masked, "mine", "train")) == rows
    assert source_fingerprint(masked, "mine") == source_fingerprint(whole, "mine")
    masked.stream, masked.max_rows = True, 5
    with pytest.raises(SftError, match="is not stored with a run"):
        next(stream_blocks(masked, "mine", "train", 1))
    assert len(site.gets) == requested


def test_downloads_differ_by_signature(site):
    """They may name different files; a server that says no version could not tell them apart."""
    site.versions = False
    first, second = (SourceConfig(path=f"http://{site.host}/d/rows.jsonl?token={word}") for word in "ab")
    one = list(read_source(first, "mine", "train"))
    site.files["/d/rows.jsonl"] = b'{"a": "other"}\n'
    forget()
    assert len(list(read_source(second, "mine", "train"))) == 1
    site.stop()
    forget()
    assert list(read_source(first, "mine", "train")) == one


@pytest.fixture(scope="module")
def bucket():
    """S3 on this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key-name",
            "AWS_SECRET_ACCESS_KEY": "key-word",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="shelf")
        for name in ("one.jsonl", "d/train.jsonl", "d/test.jsonl", "d/README.md", "deep/x/a.jsonl", "deep/y/a.jsonl"):
            client.put_object(Bucket="shelf", Key=name, Body=json.dumps({"a": name}).encode())
        yield client
    server.stop()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"path": "s3://shelf/one.jsonl"}, [("one.jsonl:1", "one.jsonl")], id="file"),
        pytest.param(
            {"path": "s3://shelf/d/*.jsonl"},
            [("test.jsonl:1", "d/test.jsonl"), ("train.jsonl:1", "d/train.jsonl")],
            id="glob",
        ),
        pytest.param(
            {"path": "s3://shelf/deep/**/a.jsonl"},
            [("x/a.jsonl:1", "deep/x/a.jsonl"), ("y/a.jsonl:1", "deep/y/a.jsonl")],
            id="deep-glob",
        ),
        pytest.param({"path": "s3://shelf/d"}, [("train.jsonl:1", "d/train.jsonl")], id="directory-of-splits"),
        pytest.param({"path": "s3://shelf/d/", "split": "test"}, [("test.jsonl:1", "d/test.jsonl")], id="other-split"),
    ],
)
def test_s3(site, bucket, config, expected):
    rows = [(row.where, row.values["a"]) for row in read_source(SourceConfig(**config), "mine", "train")]
    assert rows == expected


def test_stream_from_s3(site, bucket, tmp_path):
    """Nothing is stored, and a state goes on in the middle of a file."""
    bucket.put_object(Bucket="shelf", Key="many.jsonl", Body=ROWS)
    config = SourceConfig(path="s3://shelf/many.jsonl", stream=True, max_rows=1500, shuffle_buffer=600)
    through = list(stream_blocks(config, "mine", "train", 1))
    assert [len(block.rows) for block in through] == [600, 600, 300]
    assert list(stream_blocks(config, "mine", "train", 1, through[0].state)) == through[1:]
    (entry,) = source_fingerprint(config, "mine")["train"]["files"]
    assert entry[0] == "many.jsonl"
    assert entry[1].startswith('ETag="')
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("path", "problem", "fix"),
    [
        ("s3://shelf/none.jsonl", "'s3://shelf/none.jsonl' does not exist", "check the address"),
        ("s3://other/none.jsonl", "'s3://other/none.jsonl' does not exist", "check the address"),
        (
            "s3://shelf/*.csv",
            "no file matches 's3://shelf/*.csv'",
            "check the address; ** matches nested folders",
        ),
    ],
)
def test_missing_s3_objects(site, bucket, path, problem, fix):
    assert message(path=path) == f"data.mix.mine.path: {problem}\n  fix: {fix}"


def test_s3_without_keys(site, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert message(path="s3://shelf/secret.jsonl") == (
        "data.mix.mine.path: s3:// refuses access to 's3://shelf/secret.jsonl'\n"
        "  fix: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE;"
        " for a public bucket FSSPEC_S3_ANON=true"
    )
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_listing_is_not_cached_between_processes(site, bucket):
    """Listings are not taken from the client's memory."""
    bucket.put_object(Bucket="shelf", Key="new/a.jsonl", Body=b'{"a": 1}')
    assert values("s3://shelf/new/*.jsonl") == [("a.jsonl:1", 1)]
    bucket.put_object(Bucket="shelf", Key="new/b.jsonl", Body=b'{"a": 2}')
    forget()
    assert values("s3://shelf/new/*.jsonl") == [("a.jsonl:1", 1), ("b.jsonl:1", 2)]


def test_stream_needs_a_network(site):
    """What was stored before is no stream: its rows would be others than the manifest says."""
    url = f"http://{site.host}/d/rows.jsonl"
    values(url)
    site.stop()
    forget()
    with pytest.raises(SftError, match="cannot be reached"):
        next(stream_blocks(SourceConfig(path=url, stream=True, max_rows=5), "mine", "train", 1))
