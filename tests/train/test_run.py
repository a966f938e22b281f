"""Whole runs: their directory, metrics and console output, and the weights that they train."""

import json
import re
import shutil
from importlib.metadata import version

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_cli.errors import SftError
from sft_cli.model import threads
from sft_cli.train import session

STEP_KEYS = [
    "step", "epoch", "loss", "terms", "lr", "grad_norm", "examples", "tokens", "computed_tokens", "trained_tokens",
    "seconds", "tokens_per_second", "memory", "at",
]  # fmt: skip


def test_the_run_directory_contains_all_files_for_later_commands(runs, metrics, base, capsys):
    done = runs.start("r", "eval.samples=2", "eval.max_new_tokens=4")

    names = {path.name for path in done.path.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "data.json", "manifest.json", "golden.json", "probes.json", "metrics.jsonl",
        "samples.jsonl", "checkpoints", "adapter", "tensorboard",
    }  # fmt: skip
    steps = metrics(done)
    assert [list(step) for step in steps] == [STEP_KEYS] * 8
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert sum(step["examples"] for step in steps) == 2 * 19
    assert all(step["trained_tokens"] < step["tokens"] for step in steps)
    assert [line["step"] for line in metrics(done, eval=True)] == [4, 8]
    samples = [json.loads(line) for line in done.samples.read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [4, 4, 8, 8]
    prompts = [sample["prompt"] for sample in samples]
    assert prompts[:2] == prompts[2:]
    assert prompts[0] != prompts[1]
    assert all(prompts)
    assert capsys.readouterr().out.count("sample    ") == 2
    assert done.read_json(done.data)["fingerprint"] == done.read_json(done.manifest)["fingerprint"]
    assert done.read_json(done.environment)["packages"]["torch"] == version("torch")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks the old name
def test_peft_loads_the_adapter_with_template_and_stop_token(runs, base):
    done = runs.start("r", "trainer.max_steps=2")

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), done.adapter)
    tokenizer = AutoTokenizer.from_pretrained(done.adapter)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "hi"
    assert done.read_json(done.adapter / "generation_config.json")["eos_token_id"] == [2]


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_only_the_adapter_is_trained_and_the_loss_falls(runs, metrics, monkeypatch, quant):
    kept = {}
    build = session.build_training_model

    def record_model(*arguments):
        built = build(*arguments)
        kept["model"] = built.loss_model
        kept["before"] = {name: p.detach().clone() for name, p in kept["model"].named_parameters()}
        return built

    monkeypatch.setattr(session, "build_training_model", record_model)
    steps = metrics(runs.start("r", f"quant={quant}", "trainer.epochs=4", "trainer.eval_every=2"))

    first, last = (
        sum(step["loss"] * step["trained_tokens"] for step in epoch) / sum(step["trained_tokens"] for step in epoch)
        for epoch in (steps[:4], steps[-4:])
    )
    assert last < 0.6 * first
    moved = {name for name, p in kept["model"].named_parameters() if not torch.equal(p, kept["before"][name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_full_fine_tuning_writes_a_whole_model(runs, metrics, base):
    done = runs.start("r", "adapter=none", "trainer.lr=1e-3")

    steps = metrics(done)
    assert steps[-1]["loss"] < steps[0]["loss"]
    AutoModelForCausalLM.from_pretrained(done.model)
    before, after = load_file(base / "model.safetensors"), load_file(done.model / "model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_console_log_has_the_output_of_every_session(runs, capsys, monkeypatch):
    """It has the command line and all output, also from before the directory existed, but no secrets."""
    monkeypatch.setenv("SOME_TOKEN", "plain-secret-42")
    capsys.readouterr()
    done = runs.start("r", "trainer.max_steps=2", "run_name=plain-secret-42")
    output = capsys.readouterr().out
    first, *rest = done.console.read_text(encoding="utf-8").splitlines()
    assert first.startswith("$ sft train data=local ")
    assert "plain-secret-42" not in first + "".join(rest)
    assert [line.rstrip() for line in rest] == [
        line.rstrip() for line in output.replace("plain-secret-42", "***").splitlines()
    ]
    shutil.rmtree(done.adapter)
    runs.resume("r")
    again = done.console.read_text(encoding="utf-8").splitlines()
    assert again[: len(rest) + 1] == [first, *rest]
    assert again[len(rest) + 1].startswith("$ sft train --resume ")


def test_piped_output_is_plain_lines(runs, capsys):
    runs.start("r", "trainer.max_steps=2")

    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\r" not in output
    assert "step      2/2  epoch 0.50  loss" in output


@pytest.mark.slow
def test_a_resumed_run_uses_the_recorded_number_of_threads(runs, monkeypatch, capsys):
    """The number is recorded once, printed once per session, and overrides OMP_NUM_THREADS."""
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    before = torch.get_num_threads()
    try:
        done = runs.start("r", "trainer.max_steps=2", "speed.threads=2")
        assert done.read_json(done.environment)["threads"] == 2
        assert capsys.readouterr().out.count("machine   cpu, float32") == 1
        shutil.rmtree(done.adapter)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        runs.resume("r", "speed.threads=null")
        assert torch.get_num_threads() == done.read_json(done.environment)["threads"] == 2
        assert "), 2 threads (as the run began)\n" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


def test_a_run_without_held_out_rows(runs, metrics):
    done = runs.start("r", "data.val_fraction=0", "trainer.max_steps=2")

    assert (len(metrics(done)), metrics(done, eval=True)) == (2, [])
    assert done.adapter.is_dir()


def test_the_base_is_compared_after_training_with_its_adapter_off(runs, metrics, capsys):
    """The scores are those of the unchanged model, and a run that began without them can still compute them."""
    from sft_cli.cli import execute

    compared = ("trainer.max_steps=2", "eval.compare_after_training=true", "eval.max_new_tokens=4")
    done = runs.start("r", *compared)
    lines = capsys.readouterr().out
    assert re.search(r"held-out loss +\d\.\d+ +\d\.\d+", lines)
    assert lines.index("step ") < lines.index("baseline  evaluating the base model")
    before = done.read_json(done.base_scores)
    execute(["eval", str(done.path), "--compare", "base", "eval.max_new_tokens=4"])
    other = done.read_json(done.path / "eval" / "heldout.json")["base"]
    assert before["loss"] == pytest.approx(other["loss"], abs=1e-5)
    shutil.rmtree(done.adapter)
    done.base_scores.unlink()

    assert runs.resume("r").read_json(done.base_scores) == before


@pytest.mark.slow
def test_a_fully_trained_base_is_compared_only_from_the_start(runs, capsys):
    compared = ("trainer.max_steps=2", "eval.compare_after_training=true", "eval.max_new_tokens=4", "adapter=none")
    done = runs.start("r", *compared)
    assert done.read_json(done.base_scores)["loss"] > 5
    assert re.search(r"held-out loss +\d\.\d+ +\d\.\d+", capsys.readouterr().out)
    shutil.rmtree(done.model)
    done.base_scores.unlink()

    with pytest.raises(SftError, match="the run began without it"):
        runs.resume("r")


def test_a_run_with_relative_paths_is_evaluated_from_another_directory(runs, rows, base, tmp_path, monkeypatch):
    from sft_cli.cli import execute

    home = tmp_path / "home dir"
    home.mkdir()
    shutil.copy(rows, home / "rows.jsonl")
    shutil.copytree(base, home / "base")
    monkeypatch.chdir(home)
    runs.start("r", "data.mix.local.path=rows.jsonl", "model.path=base", "trainer.max_steps=2", "run_dir=here")
    monkeypatch.chdir(tmp_path)

    execute(["eval", str(home / "here"), "eval.max_new_tokens=2"])

    assert len(list((home / "here" / "eval").glob("heldout-*.json"))) == 1


def test_the_last_weights_are_exported_without_keep_best(runs, metrics, capsys):
    done = runs.start("r", "trainer.lr=0.3", "trainer.epochs=10", "trainer.eval_every=1", "trainer.patience=2",
                      "trainer.keep_best=false")  # fmt: skip

    assert "its weights are exported" not in capsys.readouterr().out
    exported = load_file(done.adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B"
    best = min(metrics(done, eval=True), key=lambda line: line["loss"])["step"]
    kept = load_file(done.checkpoints / f"step-{best}" / "trained.safetensors")
    assert not torch.equal(kept[f"model.{name}.default.weight"], exported[f"{name}.weight"])


def test_gradients_are_clipped_and_the_norm_before_is_logged(runs, metrics):
    """AdamW is invariant to a common factor of all gradients unless they are near its epsilon of 1e-8."""
    done = runs.start("r", "trainer.max_grad_norm=1e-12", "trainer.schedule=constant")

    first, last = (line["loss"] for line in metrics(done, eval=True))
    assert last == pytest.approx(first, abs=2e-3)
    assert all(step["grad_norm"] > 0.1 for step in metrics(done))


@pytest.mark.slow
def test_the_seed_decides_the_curve(runs, metrics):
    curves = [[step["loss"] for step in metrics(runs.start(name, f"trainer.seed={seed}", "trainer.max_steps=3"))]
              for name, seed in (("a", 1), ("b", 1), ("c", 2))]  # fmt: skip
    assert curves[0] == curves[1] != curves[2]
