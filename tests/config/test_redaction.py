"""Passwords and signatures of addresses are never written or printed."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.compose import compose, dump_config, read_config
from sft_cli.config.explain import show_config
from sft_cli.config.redaction import is_masked, masked_address
from sft_cli.errors import SftError

MASKED = [
    ("https://h/rows.jsonl?X-Amz-Date=2026&X-Amz-Signature=abc", "https://h/rows.jsonl?X-Amz-Date=2026&X-Amz-Signature=***"),
    ("https://h/rows.jsonl?X-Amz-Credential=A%2Fs3&X-Amz-Expires=60", "https://h/rows.jsonl?X-Amz-Credential=***&X-Amz-Expires=60"),
    ("https://a.blob.core.windows.net/c/r.jsonl?sv=2024&sig=q%3D", "https://a.blob.core.windows.net/c/r.jsonl?sv=2024&sig=***"),
    ("https://h/r.jsonl?Key-Pair-Id=K&Policy=P&download=true", "https://h/r.jsonl?Key-Pair-Id=***&Policy=***&download=true"),
    ("https://h/r.jsonl?TOKEN=t", "https://h/r.jsonl?TOKEN=***"),
    ("https://h/r.jsonl?x=abcdefghij0123456789", "https://h/r.jsonl?x=***"),
    ("https://h/r.jsonl?abcdefghij0123456789", "https://h/r.jsonl?***"),
    ("https://h/r.jsonl#token", "https://h/r.jsonl#***"),
    ("https://me:word@h:8080/r.jsonl?a=1", "https://***@h:8080/r.jsonl?a=1"),
    ("s3://key:word@bucket/r.jsonl", "s3://***@bucket/r.jsonl"),
]  # fmt: skip
KEPT = [
    "https://h/r.jsonl?download=true&dl=1",
    "https://h/d%20e/r.jsonl?sig=",
    "s3://bucket/rows-?-with-a-name-that-is-long.jsonl",
    "s3://bucket/a#b?token=x.jsonl",
    "hf://datasets/owner/name@refs/convert/parquet/a.parquet",
    "rows?token=x.jsonl",
    "owner/name",
    "builtin:quickstart/train.jsonl",
]


@pytest.mark.parametrize(("address", "expected"), MASKED)
def test_secrets_in_addresses_are_masked(address, expected):
    assert masked_address(address) == expected
    assert masked_address(expected) == expected
    assert is_masked(expected) == ("?" in expected and "***" in expected.partition("?")[2])
    assert not is_masked(address)


@pytest.mark.parametrize("address", KEPT)
def test_addresses_without_secrets_are_unchanged(address):
    assert masked_address(address) == address
    assert not is_masked(address)


@given(st.text(), st.text())
def test_masking_is_idempotent(before, after):
    for text in (before, f"https://{before}?{after}", f"{before}://{after}"):
        assert masked_address(masked_address(text)) == masked_address(text)


SIGNED = "https://h/rows.jsonl?sig=secret-word"
WORDS = [
    "model.path=m",
    f"data.mix.a.path={SIGNED}",
    f"data.mix.a.validation_path={SIGNED}2",
    f"clean.contamination.against={{e: '{SIGNED}3'}}",
    "clean.steps=[leakage,contamination]",
]


def test_no_signature_is_shown_or_dumped(tmp_path):
    config = compose(WORDS)
    assert config.data.mix["a"].path == SIGNED
    for text in (dump_config(config), show_config(WORDS)):
        assert "secret-word" not in text
        assert text.count("https://h/rows.jsonl?sig=***") == 3
    (tmp_path / "config.yaml").write_text(dump_config(config))
    again = read_config(tmp_path / "config.yaml")
    assert again.data.mix["a"].path == "https://h/rows.jsonl?sig=***"
    assert dump_config(again) == dump_config(config)


def test_texts_that_are_not_addresses_are_dumped_unchanged():
    words = ["data.system='see https://h/?token=1'", "data.mix.a.path=rows?token=x.jsonl"]
    values = yaml.safe_load(dump_config(compose(words)))["data"]
    assert (values["system"], values["mix"]["a"]["path"]) == ("see https://h/?token=1", "rows?token=x.jsonl")


@pytest.mark.parametrize(
    ("word", "key", "shown", "fix"),
    [
        ("data.mix.a.path=https://me:secret-word@h/r.jsonl", "data.mix.a.path", "https://***@h/r.jsonl",
         "remove it, and write `machine HOST login USER password PASSWORD` into ~/.netrc"),
        ("data.mix.a.validation_path=http://secret-word@h/r.jsonl", "data.mix.a.validation_path", "http://***@h/r.jsonl",
         "remove it, and write `machine HOST login USER password PASSWORD` into ~/.netrc"),
        ("data.mix.a.path=s3://me:secret-word@b/r.jsonl", "data.mix.a.path", "s3://***@b/r.jsonl",
         "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ("clean.contamination.against.e=ftp://me:secret-word@h/r.jsonl", "clean.contamination.against.e",
         "ftp://***@h/r.jsonl", "remove it from the address"),
    ],
)  # fmt: skip
def test_password_in_an_address_is_refused_and_not_printed(word, key, shown, fix):
    with pytest.raises(SftError) as caught:
        compose(["clean.steps=[contamination]", "clean.contamination.against.x=y", word])
    assert str(caught.value) == (
        f"command line: {key} is '{shown}', with a user or password in it, which a run directory must not hold\n"
        f"  fix: {fix}"
    )
