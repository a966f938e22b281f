"""A job with a signed address: its config.yaml stores no signature, so the file must be downloaded already."""

from slurm_cluster import submit_sh

from sft_cli.data.sources import remote

ADDRESS = "https://host.example/rows.jsonl?sig="
WORDS = ("recipe=quickstart", "data=local", "data.val_rows=5", "launcher=slurm", "--dry-run")


def test_signed_address_is_refused_on_submission(tmp_path):
    result = submit_sh(*WORDS, f"data.mix.a.path={ADDRESS}secret-word", cwd=tmp_path, SFT_HOME=str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: data.mix.a.path: '{ADDRESS}***' is signed, and the job's config.yaml must not keep the signature\n"
        "  fix: first run sft prepare with the same words, with SFT_HOME on a disk that the job can read\n"
    )


def test_cached_download_of_a_signed_address_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    file = remote.RemoteFile(f"{ADDRESS}secret-word", "https://host.example/rows.jsonl", "ETag=1", 2, "data.mix.a.path")
    folder = remote.version_dir(file)
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}")
    result = submit_sh(*WORDS, f"data.mix.a.path={ADDRESS}secret-word", cwd=tmp_path, SFT_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "secret-word" not in result.stdout
