"""Whole runs with every term of the loss: the same curve for every layout, and the same bits when resumed."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from sft_cli.run_dir import RunDir

LORA, FULL, NF4 = ["adapter=lora"], ["adapter=none", "trainer.lr=1e-3"], ["adapter=lora", "quant=nf4"]
TERMS = {
    "plain": (["loss.reduction=example"], LORA, ["nll"]),
    "smoothing": (["loss.label_smoothing=0.1"], LORA, ["nll", "smoothing"]),
    "z": (["loss.z_loss=1e-2"], LORA, ["nll", "z"]),
    "dft": (["loss.dft=true"], LORA, ["nll", "dft"]),
    "kl": (["loss.kl=0.3"], LORA, ["nll", "kl"]),
    "kl-full": (["loss.kl=0.3"], FULL, ["nll", "kl"]),
    "kl-nf4": (["loss.kl=0.3"], NF4, ["nll", "kl"]),
    "kl-pissa": (["loss.kl=0.3"], ["adapter=pissa", "trainer.lr=1e-3"], ["nll", "kl"]),
    "replay": (["loss.replay=0.5"], LORA, ["nll", "replay"]),
    "all": (
        ["loss.label_smoothing=0.1", "loss.z_loss=1e-3", "loss.dft=true", "loss.kl=0.3", "loss.replay=0.5"],
        LORA,
        ["nll", "smoothing", "z", "dft", "kl", "replay"],
    ),
}
ADDED = ("smoothing", "z", "kl", "router")
"""Terms that are added to cross-entropy or DFT."""
SHORT = ["trainer.max_steps=4", "trainer.save_every=1"]
SAME = ("step", "loss", "terms", "grad_norm", "lr", "examples", "tokens", "trained_tokens")


@pytest.fixture
def replayed(tmp_path) -> list[str]:
    """A second source, of plain texts."""
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"The river {i} " + "runs on " * (i % 7)}) + "\n" for i in range(12)))
    return [f"data.mix.texts.path={file}", "data.mix.texts.role=replay"]


def all_words(name: str, replayed: list[str]) -> list[str]:
    words, kind, _ = TERMS[name]
    return [*SHORT, *kind, *words, *(replayed if "replay" in TERMS[name][2] else [])]


def equal(left, right) -> bool:
    """Return whether two runs exported the same weights."""
    file = next(left.result.glob("*.safetensors")).name
    a, b = load_file(left.result / file), load_file(right.result / file)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumed(runs, stop_during_step, name: str, *words: str):
    """Start a run, stop it by SIGTERM in its second step, and resume it."""
    stop_during_step(2)
    with pytest.raises(SystemExit) as stopped:
        runs.start(name, *words)
    assert stopped.value.code == 128 + signal.SIGTERM
    return runs.resume(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_loss_terms_do_not_depend_on_the_layout_and_resume_bit_for_bit(
    runs, metrics, replayed, stop_during_step, capsys, name
):
    words, terms = all_words(name, replayed), TERMS[name][2]
    straight = runs.start("straight", *words)
    narrow = metrics(straight)
    wide = metrics(runs.start("wide", *words, "speed.tokens_per_micro_batch=4096", "speed.share_prefixes=always"))
    alone = metrics(runs.start("alone", *words, "speed.logits_chunk=7", "speed.share_prefixes=never"))

    assert len(narrow) == 4
    assert len({one[0]["computed_tokens"] for one in (narrow, wide, alone)}) > 1
    for other in (wide, alone):
        for ours, theirs in zip(narrow, other, strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], abs=2e-5)
            assert theirs["terms"] == pytest.approx(ours["terms"], abs=2e-5)
    for line in narrow:
        assert list(line["terms"]) == terms
        base = line["terms"]["dft" if "dft" in terms else "nll"]
        assert line["loss"] == pytest.approx(base + sum(line["terms"].get(term, 0) for term in ADDED), abs=1e-5)
    if "kl" in terms:
        assert narrow[0]["terms"]["kl"] == pytest.approx(0, abs=1e-6)
        assert narrow[-1]["terms"]["kl"] > 1e-4
    first = narrow[0]
    parts = ", ".join(f"{term} {value:.4g}" for term, value in first["terms"].items())
    output = f"loss {first['loss']:.4f} ({parts})  lr" if len(terms) > 1 else f"loss {first['loss']:.4f}  lr"
    assert output in capsys.readouterr().out

    again = resumed(runs, stop_during_step, "resumed", *words)
    assert [[m[key] for key in SAME] for m in metrics(again)] == [[m[key] for key in SAME] for m in narrow]
    assert metrics(again, eval=True)[-1]["loss"] == metrics(straight, eval=True)[-1]["loss"]
    assert equal(straight, again)


@pytest.mark.slow
def test_replayed_rows_have_a_separate_mean(runs, metrics, replayed):
    """The loss is that of the other rows plus lambda times that of the replayed rows, for any numbers of rows."""
    none, half, whole = (
        metrics(runs.start(f"lambda-{factor}", *replayed, "trainer.max_steps=1", f"loss.replay={factor}"))[0]
        for factor in (0, 0.5, 1)
    )

    assert none["terms"]["replay"] == 0
    assert half["terms"]["replay"] > 1
    assert whole["terms"]["replay"] == pytest.approx(2 * half["terms"]["replay"], rel=1e-5)
    assert half["loss"] == pytest.approx(none["loss"] + half["terms"]["replay"], rel=1e-5)
    assert whole["loss"] == pytest.approx(none["loss"] + whole["terms"]["replay"], rel=1e-5)


@pytest.mark.slow
def test_embedding_noise_resumes_bit_for_bit(runs, metrics, stop_during_step):
    """The noise of an example depends on its position in a row, so different layouts are not compared."""
    noisy = runs.start("noisy", *SHORT, "loss.neftune=5")
    quiet = runs.start("quiet", *SHORT)
    assert metrics(noisy)[0]["loss"] != pytest.approx(metrics(quiet)[0]["loss"], abs=1e-4)
    assert list(metrics(noisy)[0]["terms"]) == ["nll"]

    again = resumed(runs, stop_during_step, "again", *SHORT, "loss.neftune=5")
    assert [[m[key] for key in SAME] for m in metrics(again)] == [[m[key] for key in SAME] for m in metrics(noisy)]
    assert equal(noisy, again)


@pytest.fixture
def mixture(runs, base, tmp_path):
    """The same runs on a random mixture of experts with the same tokenizer."""
    import shutil

    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    directory = tmp_path / "mixture"
    shutil.copytree(base, directory, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return type(runs)(runs.directory, directory, runs.rows)


@pytest.mark.slow
def test_load_balancing_loss_is_a_term(mixture, metrics, stop_during_step):
    words = [*SHORT, "loss.router=0.1"]
    straight = mixture.start("straight", *words)
    for line in metrics(straight):
        assert list(line["terms"]) == ["nll", "router"]
        assert line["terms"]["router"] > 0.05
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), abs=1e-5)
    plain = metrics(mixture.start("plain", *SHORT))
    assert list(plain[0]["terms"]) == ["nll"]
    assert plain[0]["loss"] == pytest.approx(metrics(straight)[0]["terms"]["nll"], abs=1e-5)

    again = resumed(mixture, stop_during_step, "again", *words)
    assert [[m[key] for key in SAME] for m in metrics(again)] == [[m[key] for key in SAME] for m in metrics(straight)]
    assert equal(straight, again)


@pytest.mark.slow
@pytest.mark.parametrize("average", ["ema", "last"])
def test_average_probes_and_kl_together_resume_bit_for_bit(runs, metrics, rows, stop_during_step, capsys, average):
    words = [
        *SHORT,
        "loss.kl=0.1",
        f"trainer.average={average}",
        *(["trainer.ema_decay=0.8"] if average == "ema" else ["trainer.average_last=2"]),
        "trainer.eval_every=2",
        f"trainer.retention.probes.known.path={rows}",
        "trainer.retention.probes.known.max_rows=5",
        "trainer.retention.every=3",
        "trainer.keep_best=false",
    ]
    straight = runs.start("straight", *words)
    assert "average   the averaged weights are exported, not the last ones\n" in capsys.readouterr().out
    again = resumed(runs, stop_during_step, "resumed", *words)

    assert [[m[key] for key in SAME] for m in metrics(again)] == [[m[key] for key in SAME] for m in metrics(straight)]
    for kind in ({"eval": True}, {"retention": True}):
        assert metrics(again, **kind) == metrics(straight, **kind)
    assert [line["step"] for line in metrics(straight, retention=True)] == [3, 4]  # the last weights, too
    assert equal(straight, again)
    assert straight.retention.read_text() == again.retention.read_text()
    last = load_file(straight.checkpoints / "step-4" / "trained.safetensors")
    mean = load_file(straight.checkpoints / "step-4" / "average.safetensors")
    assert any(not torch.equal(last[name], mean[name]) for name in last)


@pytest.mark.slow
def test_a_run_that_the_guard_stops_exits_with_3_and_can_be_continued(runs, metrics, rows, capsys):
    words = (
        f"trainer.retention.probes.known.path={rows}",
        "trainer.retention.probes.known.max_drop=0",
        "trainer.retention.every=1",
        "trainer.retention.stop=true",
        "trainer.lr=1",
    )
    with pytest.raises(SystemExit) as stopped:
        runs.start("guarded", *SHORT, *words)
    assert stopped.value.code == 3
    with pytest.raises(SystemExit) as again:
        runs.resume("guarded")
    assert again.value.code == 3
    output = capsys.readouterr().out
    (probed,) = metrics(RunDir(runs.directory / "guarded"), retention=True)
    worse = f"{probed['retention']['known']['worse']:.1%}"
    assert output.count(f"probe known is {worse} worse than the base, 0.0% is allowed") == 2

    finished = runs.resume("guarded", "trainer.retention.stop=false")
    assert [line["step"] for line in metrics(finished)] == [1, 2, 3, 4]
    assert [line["step"] for line in metrics(finished, retention=True)] == [1, 2, 3, 4]
    assert finished.result.is_dir()
