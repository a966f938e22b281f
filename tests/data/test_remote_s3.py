"""Files in S3 buckets."""

import json

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources.source_rows import read_source, source_fingerprint
from sft_cli.data.sources.streaming import stream_blocks
from tests.data.web_server import ROWS, clear_remote_caches, row_values, source_error


@pytest.fixture(scope="module")
def bucket():
    """Return a client of an S3 server on this machine with some objects."""
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
def test_read_s3_sources(site, bucket, config, expected):
    rows = [(row.where, row.values["a"]) for row in read_source(SourceConfig(**config), "mine", "train")]
    assert rows == expected


def test_stream_from_s3(site, bucket, tmp_path):
    """Nothing is stored, and a stream can resume in the middle of a file."""
    bucket.put_object(Bucket="shelf", Key="many.jsonl", Body=ROWS)
    config = SourceConfig(path="s3://shelf/many.jsonl", stream=True, max_rows=1500, shuffle_buffer=600)
    blocks = list(stream_blocks(config, "mine", "train", 1))
    assert [len(block.rows) for block in blocks] == [600, 600, 300]
    assert list(stream_blocks(config, "mine", "train", 1, blocks[0].state)) == blocks[1:]
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
            "data.mix.mine.path=URL with files; ** matches nested folders",
        ),
    ],
)
def test_missing_s3_objects(site, bucket, path, problem, fix):
    assert source_error(path=path) == f"data.mix.mine.path: {problem}\n  fix: {fix}"


def test_s3_without_keys(site, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert source_error(path="s3://shelf/secret.jsonl") == (
        "data.mix.mine.path: s3:// refuses access to 's3://shelf/secret.jsonl'\n"
        "  fix: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE;"
        " for a public bucket FSSPEC_S3_ANON=true"
    )
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_listing_is_not_cached_between_processes(site, bucket):
    """A new process lists the objects of the bucket again."""
    bucket.put_object(Bucket="shelf", Key="new/a.jsonl", Body=b'{"a": 1}')
    assert row_values("s3://shelf/new/*.jsonl") == [("a.jsonl:1", 1)]
    bucket.put_object(Bucket="shelf", Key="new/b.jsonl", Body=b'{"a": 2}')
    clear_remote_caches()
    assert row_values("s3://shelf/new/*.jsonl") == [("a.jsonl:1", 1), ("b.jsonl:1", 2)]
