"""A run from the outside: its directory, its metrics, what it trains and what it leaves alone."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_cli.errors import SftError

STEP_KEYS = [
    "step", "epoch", "loss", "lr", "grad_norm", "examples", "tokens", "trained_tokens", "seconds",
    "tokens_per_second", "memory",
]  # fmt: skip


def test_the_run_directory_holds_all_that_later_commands_need(runs, metrics, base):
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
    assert done.read(done.data)["fingerprint"] == done.read(done.manifest)["fingerprint"]
    assert done.read(done.environment)["packages"]["torch"] == torch.__version__


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks the old name
def test_the_adapter_opens_with_peft_and_carries_template_and_stop_token(runs, base):
    done = runs.start("r", "trainer.max_steps=2")

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), done.adapter)
    tokenizer = AutoTokenizer.from_pretrained(done.adapter)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "hi"
    assert done.read(done.adapter / "generation_config.json")["eos_token_id"] == [2]


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_only_the_adapter_moves_and_the_loss_falls(runs, metrics, monkeypatch, quant):
    from sft_cli.train import session

    kept = {}
    build = session._build_model

    def remembered(*arguments):
        kept["model"] = build(*arguments)
        kept["before"] = {name: p.detach().clone() for name, p in kept["model"].named_parameters()}
        return kept["model"]

    monkeypatch.setattr(session, "_build_model", remembered)
    steps = metrics(runs.start("r", f"quant={quant}", "trainer.epochs=4", "trainer.eval_every=2"))

    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
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


def test_piped_output_is_plain_lines(runs, capsys):
    runs.start("r", "trainer.max_steps=2")

    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\r" not in said
    assert "step      2/2  loss" in said


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
            ["trainer.max_length=1024", "trainer.tokens_per_micro_batch=1024", "data.mix.local.path={long}"],
            "trainer.max_length=1024: the longest example has 906 tokens, the model takes 512\n"
            "  fix: trainer.max_length=512",
        ),
    ],
)
def test_the_preflight_refuses_before_a_run_directory_exists(runs, tmp_path, words, message):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "a" * 900, "completion": "b" * 5}) + "\n")
    if torch.cuda.is_available() and "trainer.device=cuda" in words:
        pytest.skip("this machine has CUDA")

    with pytest.raises(SftError) as refused:
        runs.start("r", "data.val_fraction=0", *(word.format(long=long) for word in words))

    assert str(refused.value) == message
    assert not (tmp_path / "r").exists()
