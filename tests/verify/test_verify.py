"""``sft verify`` passes what a run exports, and names what is wrong with artefacts that were broken on purpose."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from sft_cli.cli import execute
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.verify import encodings, ollama, verify
from sft_cli.verify.artefact import open_artefact
from sft_cli.verify.finding import VerifyFinding
from tests.export.saved import save_run
from tests.verify.breakages import BROKEN_ADAPTERS, BROKEN_MODELS, change, template


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """Return a finished run whose merged model is in RUN/merged."""
    saved = save_run(tmp_path_factory.mktemp("saved"))
    execute(["export", str(saved.path), "--out", str(saved.path / "merged")])
    return saved


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, request):
    """Encode in this process, because a new one takes seconds; one test uses a new one."""
    if "in_a_new_process" in request.fixturenames:
        return

    def ask(artefact, golden, texts, trust_remote_code):
        tokenizer = AutoTokenizer.from_pretrained(artefact.directory)
        prompts = [tokenizer.apply_chat_template(prompt.messages)["input_ids"] for prompt in golden]
        return {"prompts": prompts, "texts": [tokenizer.encode(text, add_special_tokens=False) for text in texts]}

    monkeypatch.setattr(encodings, "ask_clean_process", ask)


@pytest.fixture
def in_a_new_process() -> None:
    """Encode in a new process."""


def findings(run: RunDir, directory: Path, *servers) -> list[VerifyFinding]:
    """Return all findings on a directory."""
    return list(verify._all_findings(open_artefact(directory, run), servers, None))


def test_a_merged_model_passes(run):
    found = findings(run, run.path / "merged", "vllm", "tgi", "transformers")
    assert [finding for finding in found if finding.is_bad] == []
    assert {finding.check for finding in found if finding.status == "skipped"} == set()
    assert len(found) > 10


@pytest.mark.parametrize(("break_it", "check", "text"), BROKEN_MODELS)
def test_a_broken_model_is_named(run, tmp_path, break_it, check, text):
    model = tmp_path / "model"
    shutil.copytree(run.path / "merged", model)
    break_it(model)

    found = findings(run, model, "vllm")

    named = [finding for finding in found if finding.check == check and finding.is_bad]
    assert [text in finding.text for finding in named] == [True], found
    assert all(finding.fix for finding in found if finding.is_bad)


@pytest.mark.parametrize(("break_it", "check", "text"), BROKEN_ADAPTERS)
def test_a_broken_adapter_is_named(run, tmp_path, break_it, check, text):
    shutil.copytree(run.adapter, tmp_path / "adapter")
    break_it(tmp_path / "adapter")

    found = findings(run, tmp_path / "adapter", "vllm", "tgi", "llama.cpp")

    named = [finding for finding in found if finding.check == check and finding.is_bad]
    assert [text in finding.text for finding in named] == [True], found
    assert all(finding.fix for finding in named)


@pytest.mark.slow
def test_a_trained_stop_row_is_refused_by_vllm_and_portable_passes(tmp_path):
    saved = save_run(tmp_path, stop=TrainStopToken.always)
    found = findings(saved, saved.adapter, "vllm")
    refused = [finding for finding in found if finding.status == "refused"]
    assert ["trained token rows (trainable_token_indices)" in finding.text for finding in refused] == [True]
    assert f"sft export {saved.path} --to adapter --portable" in refused[0].fix

    execute(["export", str(saved.path), "--to", "adapter", "--portable", "--out", f"{tmp_path}/new"])

    assert [finding for finding in findings(saved, tmp_path / "new/adapter", "vllm") if finding.is_bad] == []


def test_a_rank_above_the_default_names_the_option(tmp_path):
    saved = save_run(tmp_path, adapter=AdapterConfig(rank=24))
    notes = [f for f in findings(saved, saved.adapter, "vllm") if f.check == "vllm" and f.status == "note"]
    assert [finding.fix for finding in notes] == ["vllm serve … --max-lora-rank 32"]


def test_another_file_of_the_base_is_named(run, tmp_path):
    base = run.path.parent / "base"
    execute(["export", str(run.path), "--to", "adapter", "--out", f"{tmp_path}/new"])
    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + torch.tensor(1.0)
    save_file(tensors, tmp_path / "base/model.safetensors", {"format": "pt"})
    change(tmp_path / "new/adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))

    bad = [finding.text for finding in findings(run, tmp_path / "new") if finding.check == "base"]

    assert bad == ["model.safetensors of the base is not the file that the adapter was trained on"]


def test_a_gguf_file_with_another_split_into_words_is_named(run, tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    from sft_cli.export import gguf_file, gguf_vocab

    for name in ("gpt-2", "llama-bpe", "no-such-split"):
        monkeypatch.setattr(gguf_vocab, "pre_tokenizer_name", lambda *_, name=name: name)
        (tmp_path / name).mkdir()
        gguf_file.write_gguf(run.path / "merged", tmp_path / name / "model.gguf", "f16", "")

    good, wrong, unknown = (
        [f for f in findings(run, tmp_path / name) if f.check == "llama.cpp ids"]
        for name in ("gpt-2", "llama-bpe", "no-such-split")
    )
    assert [finding.status for finding in good] == ["ok"]
    assert ["texts have other ids in model.gguf; facts.jsonl:" in finding.text for finding in wrong] == [True]
    assert ["llama.cpp cannot open the file: " in finding.text for finding in unknown] == [True]
    assert all(finding.fix == f"sft export {run.path} --to gguf" for finding in (*wrong, *unknown))


def test_a_template_close_to_a_known_one_is_replaced_by_ollama(tmp_path):
    known, place = ollama.known_templates(None)
    changed = known["chatml"].replace("user", "human", 1) + "{# ours #}"

    (near,) = ollama.check_replacement(changed, known, place)
    (same,) = ollama.check_replacement(known["chatml"], known, place)
    (far,) = ollama.check_replacement("x" * 900, known, place)

    assert (near.status, same.status, far.status) == ("refused", "note", "ok")
    assert "edits from chatml's: Ollama renders its own instead" in near.text
    (tmp_path / "index.json").write_text(json.dumps([{"name": "mine", "template": "abc"}]))
    assert ollama.known_templates(tmp_path / "index.json")[0] == {"mine": "abc"}
    (tmp_path / "index.json").write_text("[1]")
    with pytest.raises(SftError, match="it is not a list of templates"):
        ollama.known_templates(tmp_path / "index.json")


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("kitten", "sitting", 3),
        ("abc", "", 3),
        ("", "ab", 2),
        ("flaw", "lawn", 2),
        ("a" * 9, "b" * 9, None),
    ],
)
def test_the_edit_distance_is_levenshteins(first, second, distance):
    assert ollama.edits(first, second, 8) == distance
    assert ollama.edits(second, first, 8) == distance


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_new_process")
def test_a_clean_process_gives_the_ids_of_training(run):
    found = {finding.check: finding for finding in findings(run, run.path / "merged")}
    assert found["AutoTokenizer"].text == "11 have the ids of training"
    assert found["chat template"].text == "3 have the ids of training"


def test_the_command_verifies_a_run_with_its_exports_and_exits_with_3(run, tmp_path, capsys):
    assert execute(["verify", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "AutoTokenizer   ok" in printed
    assert "verify    no problems" in printed
    assert f"adapter   {run.path}/adapter" in printed
    assert f"model     {run.path}/merged" in printed

    shutil.copytree(run.path / "merged", tmp_path / "model")
    template(tmp_path / "model")
    assert execute(["verify", f"{tmp_path}/model", "--run", str(run.path), "--for", "vllm"]) == 3
    printed = capsys.readouterr().out
    assert "verify    3 problems" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no such directory"),
        (["."], "there is neither a model"),
        ([".", "--for", "vlm"], "--for vlm: the servers are transformers, vllm, tgi, llama.cpp, ollama"),
        ([".", "--run", "nowhere"], "nowhere: there is no such directory"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_words_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SftError) as error:
        execute(["verify", *words])
    assert message in str(error.value)
