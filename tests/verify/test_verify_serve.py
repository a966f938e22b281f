"""``sft verify --serve`` asks a real server, and finds a template that was changed after training."""

import shutil

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.verify.artefact import open_artefact
from sft_cli.verify.serving import check_serving
from tests.export.saved import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run."""
    return save_run(tmp_path_factory.mktemp("saved"))


def test_options_of_the_server_need_serve(run):
    for words in (["--engine", "transformers"], ["--timeout", "5.0"]):
        with pytest.raises(SftError) as error:
            execute(["verify", str(run.path), *words])
        assert error.value.fix == f"--serve {' '.join(words)}"


def test_what_no_server_is_started_for(run, tmp_path):
    shutil.copytree(run.adapter, tmp_path / "adapter")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model.gguf").touch()
    found = [
        list(check_serving(open_artefact(tmp_path / name, owner), "transformers", 60))
        for name, owner in (("adapter", run), ("adapter", None), ("gguf", run))
    ]
    assert [(finding.status, finding.text[:30]) for (finding,) in found] == [
        ("skipped", "an adapter is served by its ru"),
        ("skipped", "there is nothing to ask: the r"),
        ("skipped", "transformers serves no GGUF fi"),
    ]
    assert found[0][0].fix == f"sft verify {run.path} --serve"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_answers_as_trained_and_not_with_another_template(run, tmp_path, monkeypatch):
    pytest.importorskip("fastapi")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    execute(["merge", str(run.path), "--out", str(tmp_path / "merged")])
    good = list(check_serving(open_artefact(tmp_path / "merged", run), "transformers", 120))
    assert [(finding.check, finding.status) for finding in good] == [("served prompts", "ok"), ("served answers", "ok")]

    template = tmp_path / "merged/chat_template.jinja"
    template.write_text(template.read_text().replace("assistant: ", "assistant says: "))
    prompts, answers = check_serving(open_artefact(tmp_path / "merged", run), "transformers", 120)
    assert prompts.status == answers.status == "failed"
    assert prompts.text.startswith("3 of 3 have other numbers of tokens than in training; facts.jsonl:1: ")
    assert "greedy answers differ; facts.jsonl:1: " in answers.text

    (tmp_path / "merged/config.json").write_text("{}")
    (broken,) = check_serving(open_artefact(tmp_path / "merged", run), "transformers", 120)
    assert (broken.check, broken.status) == ("served", "failed")
    assert "the server ended while it loaded the model, with exit code 1; its last lines:" in broken.text
    assert list(tmp_path.glob("sft-serve-*")) == []
