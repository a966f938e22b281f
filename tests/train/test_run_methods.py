"""Every adapter method end to end: train, stop, resume, evaluate, merge, and load with transformers."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train import loop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft 0.21 asks the old name
]
SHORT = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=1", "trainer.schedule=constant",
         "trainer.keep_best=false", "speed.threads=1", "eval.max_new_tokens=2"]  # fmt: skip
NOT_MERGEABLE = "is not an update of the weights and cannot be merged"
NO_ADAPTER = "so there is no adapter to merge"
METHODS: dict[str, tuple[list[str], bool, str | None]] = {
    "lora": ([], True, None),
    "rslora": (["adapter=rslora"], True, None),
    "dora": (["adapter=dora"], True, None),
    "pissa": (["adapter=pissa"], True, None),
    "olora": (["adapter=olora"], True, None),
    "eva": (["adapter=eva"], True, None),
    "loraplus": (["adapter=loraplus"], True, None),
    "vera": (["adapter=vera", "adapter.vera.rank=8"], True, None),
    "ia3": (["adapter=ia3"], True, None),
    "oft": (["adapter=oft"], True, None),
    "head whole": (["adapter.modules_to_save=[lm_head]"], True, None),
    "ranks": (["adapter.rank_pattern={q_proj:4}", "adapter.alpha_pattern={q_proj:8}"], True, None),
    "prefix": (["adapter=prefix", "adapter.virtual.tokens=4"], False, NOT_MERGEABLE),
    "prompt": (["adapter=prompt", "adapter.virtual.tokens=4"], False, NOT_MERGEABLE),
    "llama_adapter": (["adapter=llama_adapter", "model.path=square"], True, NOT_MERGEABLE),
    "bitfit": (["adapter=bitfit", "model.path=biased"], True, NO_ADAPTER),
    "full": (["adapter=none", "trainer.lr=1e-3"], True, NO_ADAPTER),
    "some layers": (["adapter=none", "adapter.train=['layers\\.1\\.']", "trainer.lr=1e-3"], True, NO_ADAPTER),
    "new tokens": (["model.add_tokens=[<x>,<|call|>]"], True, None),
    "nf4": (["quant=nf4"], True, None),
    "fp4": (["quant=fp4"], True, None),
    "int8": (["quant=int8"], True, None),
    "loftq": (["adapter=loftq", "quant=nf4"], True, "--into dequantized"),
    "nf4 dora": (["adapter=dora", "quant=nf4"], True, None),
    "nf4 pissa": (["adapter=pissa", "quant=nf4"], True, None),
    "nf4 prompt": (["adapter=prompt", "quant=nf4"], False, NOT_MERGEABLE),
}
"""For each name: settings, whether rows are packed, and the error on merging (None: it merges)."""


@pytest.fixture(scope="module")
def bases(base, tmp_path_factory) -> dict[str, Path]:
    """The tiny Llama with biases, and one whose head widths add up to the hidden size, each with the tokenizer."""
    original = {}
    for name, changed in (("biased", {"attention_bias": True, "mlp_bias": True}), ("square", {"head_dim": 16})):
        config = LlamaConfig.from_pretrained(base)
        config.update(changed)
        original[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(original[name])
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base / file, original[name])
    return original


@pytest.fixture
def tokens_in(runs, rows, tmp_path):
    """The rows with two new tokens in some prompts and answers."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line in lines[::2]:
        line |= {"prompt": f"<|call|>{line['prompt']}", "completion": f"<x>{line['completion']}"}
    runs.rows = tmp_path / "tokens.jsonl"
    runs.rows.write_text("".join(json.dumps(line) + "\n" for line in lines))


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(next(run.result.glob("*model.safetensors")))


def loss_of(model, run: RunDir) -> float:
    """Return the mean cross-entropy of plain transformers on the trained tokens of the run's probe rows."""
    total, count = 0.0, 0
    for probe in run.read_json(run.probes):
        with torch.no_grad():
            logits = model(torch.tensor([probe["input_ids"]])).logits[0, :-1].float()
        labels = torch.tensor(probe["labels"][1:])
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_resumes_evaluates_and_merges(method, runs, metrics, bases, request, monkeypatch, capsys):
    words, packed, refusal = METHODS[method]
    words = [*SHORT, *(word.replace("=biased", f"={bases['biased']}").replace("=square", f"={bases['square']}")
                       for word in words)]  # fmt: skip
    if method == "new tokens":
        request.getfixturevalue("tokens_in")

    straight = runs.start("straight", *words)
    assert ("packing   verified" in capsys.readouterr().out) is packed
    losses = [line["loss"] for line in metrics(straight)]
    assert losses[-1] != losses[0]

    with monkeypatch.context() as patched:
        original = loop._evaluate

        def interrupted(run, progress, log):
            if progress.step == 2:
                signal.raise_signal(signal.SIGTERM)
            return original(run, progress, log)

        patched.setattr(loop, "_evaluate", interrupted)
        with pytest.raises(SystemExit) as stopped:
            runs.start("cut", *words)
        assert stopped.value.code == 128 + signal.SIGTERM
    resumed = runs.resume("cut")
    assert [line["loss"] for line in metrics(resumed)] == losses
    one, other = weights(straight), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    execute(["eval", str(straight.path), "--compare", "base"])
    report = straight.read_json(straight.eval / "heldout.json")
    assert report["metrics"]["loss"] == pytest.approx(metrics(straight, eval=True)[-1]["loss"], abs=1e-5)
    assert abs(report["base"]["loss"] - report["metrics"]["loss"]) > 1e-4

    if refusal is not None:
        with pytest.raises(SftError, match=refusal):
            execute(["merge", str(straight.path)])
    if refusal == "--into dequantized":
        execute(["merge", str(straight.path), "--into", "dequantized"])
    elif refusal is None:
        execute(["merge", str(straight.path)])
    merged = straight.model if refusal == NO_ADAPTER else straight.path / "merged"
    if merged.is_dir():
        quantized = "quant=" in " ".join(words)
        loss = loss_of(AutoModelForCausalLM.from_pretrained(merged), straight)
        assert loss == pytest.approx(report["metrics"]["loss"], abs=0.3 if quantized else 1e-4)


def test_start_from_and_frozen_adapters(runs, metrics):
    first = runs.start("first", *SHORT)
    last = metrics(first, eval=True)[-1]["loss"]
    for key, words in (("start_from", []), ("frozen_adapters", [])):
        path = f"[{first.path}]" if key == "frozen_adapters" else first.path
        run = runs.start(key, *SHORT, f"adapter.{key}={path}", *words)
        execute(["eval", str(run.path), "--compare", "base"])
        report = run.read_json(run.eval / "heldout.json")
        assert report["metrics"]["loss"] < last < report["base"]["loss"]
        execute(["merge", str(run.path)])
        merged = AutoModelForCausalLM.from_pretrained(run.path / "merged")
        assert loss_of(merged, run) == pytest.approx(report["metrics"]["loss"], abs=1e-4)
