"""A GGUF file with another number than config.json is refused, also where greedy answers do not show it."""

import json

import pytest

pytest.importorskip("gguf")

from transformers import AutoConfig

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.export import gguf_file
from sft_cli.export.gguf_file import write_gguf
from sft_cli.export.gguf_settings import wrong_settings
from sft_cli.verify import gguf as verify_gguf
from sft_cli.verify.artefact import Artefact
from tests.export.families import FAMILIES, save_family
from tests.export.saved import save_run


@pytest.mark.every_change("gemma2")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_written_file_has_the_numbers_of_config_json(tmp_path, name):
    save_family(tmp_path / "model", name)
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32", "")

    assert wrong_settings(tmp_path / "model.gguf", AutoConfig.from_pretrained(tmp_path / "model")) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("final_logit_softcapping", 31.0),
        ("final_logit_softcapping", None),
        ("attn_logit_softcapping", 50.0),
        ("sliding_window", 16),
        ("rms_norm_eps", 1e-5),
        ("rope_theta", 500.0),
    ],
)
def test_another_number_is_found(tmp_path, key, value):
    save_family(tmp_path / "model", "gemma2")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32", "")
    file = tmp_path / "model" / "config.json"
    settings = json.loads(file.read_text())
    (settings["rope_parameters"] if key == "rope_theta" else settings)[key] = value
    file.write_text(json.dumps(settings))

    wrong = wrong_settings(tmp_path / "model.gguf", AutoConfig.from_pretrained(tmp_path / "model"))
    assert len(wrong) == 1
    assert ("rope.freq_base" if key == "rope_theta" else key.replace("rms_norm_eps", "rms_epsilon")) in wrong[0]


def test_gemma2_without_a_cap_is_refused(tmp_path):
    """llama.cpp would cap its logits at 30, which no greedy answer shows."""
    save_family(tmp_path / "model", "gemma2")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "final_logit_softcapping": None}))

    with pytest.raises(SftError, match=r"llama\.cpp always caps"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32", "")
    assert not (tmp_path / "model.gguf").exists()


def test_an_export_with_a_wrong_number_is_refused_and_verify_names_it(tmp_path, monkeypatch):
    run = save_run(tmp_path / "saved")
    monkeypatch.setattr("sft_cli.export.llama_cpp.is_installed", lambda: False)
    add = gguf_file.add_hyperparameters

    def add_wrong(writer, config):
        config.rms_norm_eps *= 10
        add(writer, config)

    monkeypatch.setattr(gguf_file, "add_hyperparameters", add_wrong)
    out = tmp_path / "new"
    with pytest.raises(SftError, match=r"rms_epsilon is .*, config.json has .*nothing was written"):
        execute(["export", str(run.path), "--to", "gguf", "--out", str(out)])
    assert not out.exists()

    monkeypatch.setattr("sft_cli.export.gguf_target.wrong_settings", lambda *_: [])
    execute(["export", str(run.path), "--to", "gguf", "--out", str(out)])
    found = [one for one in verify_gguf.check_gguf(Artefact(out, "gguf", run)) if one.check == "GGUF constants"]
    assert [one.status for one in found] == ["failed"]
