"""Events that stop a run, and errors before a run begins."""

import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from sft_cli.errors import SftError
from sft_cli.model import device
from sft_cli.run_dir import RunDir
from sft_cli.train import loop, session
from sft_cli.train.setup import build


def test_patience_stops_early_and_the_best_weights_are_exported(runs, metrics, capsys):
    done = runs.start("r", "trainer.lr=0.3", "trainer.epochs=10", "trainer.eval_every=1", "trainer.patience=2")

    losses = [line["loss"] for line in metrics(done, eval=True)]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 40
    assert f"best      step {best + 1} " in capsys.readouterr().out
    trained = load_file(done.checkpoints / f"step-{best + 1}" / "trained.safetensors")
    exported = load_file(done.adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B"
    assert torch.equal(trained[f"model.{name}.default.weight"], exported[f"{name}.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["trainer.device=cuda"],
            "trainer.device=cuda: torch sees no CUDA device here\n"
            "  fix: trainer.device=cpu, or find out why: nvidia-smi,"
            " python -c 'import torch; print(torch.version.cuda)'",
        ),
        (
            ["trainer.max_length=2048", "speed.tokens_per_micro_batch=2048", "data.mix.local.path={long}"],
            "model.path={base}: the longest example has 906 tokens, the model takes 512\n"
            "  fix: trainer.max_length=512 data.overflow=drop data.budget.dropped=0.67  # keeps 33.3%\n"
            "   or: trainer.max_length=512 data.overflow=truncate data.budget.dropped=0.34"
            "  # keeps 66.6%, 1 of them cut",
        ),
        (
            ["trainer.max_length=1024", "speed.tokens_per_micro_batch=1024", "data.mix.local.path={long}"],
            "trainer.max_length=1024: the longest example has 906 tokens, the model takes 512\n"
            "  fix: trainer.max_length=512 data.overflow=drop data.budget.dropped=0.67  # keeps 33.3%\n"
            "   or: trainer.max_length=512 data.overflow=truncate data.budget.dropped=0.34"
            "  # keeps 66.6%, 1 of them cut",
        ),
    ],
)
def test_the_preflight_fails_before_a_run_directory_exists(runs, tmp_path, words, message):
    long = tmp_path / "long.jsonl"
    rows = [("a" * 900, "b" * 5), ("a", "b"), ("c", "d" * 600)]
    long.write_text("".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows))
    if torch.cuda.is_available() and "trainer.device=cuda" in words:
        pytest.skip("this machine has CUDA")

    with pytest.raises(SftError) as refused:
        runs.start("r", "data.val_fraction=0", *(word.format(long=long) for word in words))

    assert str(refused.value) == message.format(base=runs.base)
    assert not (tmp_path / "r").exists()


def test_a_signal_during_an_evaluation_saves_the_step(runs, monkeypatch):
    original = loop._evaluate

    def interrupted(run, progress, log):
        if progress.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(run, progress, log)

    monkeypatch.setattr(loop, "_evaluate", interrupted)
    with pytest.raises(SystemExit):
        runs.start("r", "trainer.eval_every=1", "trainer.save_every=100", "trainer.lr=0.3")
    assert "step-3" in [path.name for path in RunDir(runs.directory / "r").checkpoints.iterdir()]


def test_an_interruption_before_the_first_step_prints_how_to_resume(runs, metrics, monkeypatch, capsys):
    def interrupted(*_):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(session.TrainingSession, "build", interrupted)
        with pytest.raises(SystemExit) as stopped:
            runs.start("r", "trainer.max_steps=2")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert f"stopped   resume with: sft train --resume {runs.directory / 'r'}" in capsys.readouterr().out
    assert len(metrics(runs.resume("r"))) == 2


def test_divergence_stops_the_run(runs):
    with pytest.raises(SftError, match="training diverged: loss"):
        runs.start("r", "trainer.lr=1e30", "trainer.max_grad_norm=0")
    lines = RunDir(runs.directory / "r").metrics.read_text()
    assert "NaN" not in lines
    assert "null" in lines


def test_a_resumed_run_that_stopped_early_does_not_train(runs, metrics):
    words = [
        "trainer.lr=0.3",
        "trainer.epochs=10",
        "trainer.eval_every=1",
        "trainer.patience=1",
        "trainer.save_every=1",
    ]
    done = runs.start("r", *words, "eval.samples=1", "eval.max_new_tokens=2")
    straight, samples = metrics(done), done.samples.read_text()
    shutil.rmtree(done.adapter)

    runs.resume("r")

    assert metrics(done) == straight
    assert done.samples.read_text() == samples


def test_an_error_leaves_no_run_directory(runs):
    with pytest.raises(SftError, match="'q_prj' matches no layer"):
        runs.start("r", "adapter.target_modules=[q_prj]")
    assert not (runs.directory / "r").exists()


def test_unknown_ids_in_held_out_rows_are_refused(runs, base, tmp_path):
    """The last id of a larger vocabulary occurs only in a held-out row."""
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"zz": 400}
    tokenizer["model"]["merges"] = [["z", "z"]]
    larger = tmp_path / "larger"
    larger.mkdir()
    (larger / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(base / "tokenizer_config.json", larger)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "a", "completion": "zz"}\n')

    with pytest.raises(SftError) as refused:
        runs.start(
            "r", f"model.tokenizer={larger}", f"data.mix.local.validation_path={held_out}", "data.val_fraction=0"
        )
    assert str(refused.value) == (
        "model.tokenizer: the data hold token id 400, but the model has 320 tokens\n"
        "  fix: remove model.tokenizer: the model's own tokenizer is then used"
    )


@pytest.mark.parametrize(
    ("place", "name", "value", "problem"),
    [
        (
            device.psutil,
            "virtual_memory",
            SimpleNamespace(available=1000),
            "weights and training state need about 1.1 MiB, 0.0 MiB is free",
        ),
        (shutil, "disk_usage", SimpleNamespace(free=1000), "checkpoints need about"),
    ],
)
def test_too_little_memory_or_disk_is_an_error_before_loading(runs, monkeypatch, place, name, value, problem):
    monkeypatch.setattr(place, name, lambda *_: value)
    monkeypatch.setattr(build, "load_model", None)
    with pytest.raises(SftError) as refused:
        runs.start("r")
    assert refused.value.problem.startswith(problem)
