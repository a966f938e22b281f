"""Perplexity of a plain text by sliding windows, against one forward pass per token; and the alignment tax."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sft_cli.cli import execute
from sft_cli.config.schema.suites import SuiteConfig, SuiteKind
from sft_cli.errors import SftError
from sft_cli.eval.engine.text_windows import part_records
from sft_cli.eval_report.retention import alignment_tax
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.scoring.statistics import paired_difference
from sft_cli.suites.texts import load_any_suite, text_metrics, text_parts

TEXT = "The river rises in the hills.\nDéjà vu: 3 × 4 = 12, and so on.\n" * 12


def suite_of(path, text):
    file = path / "text.txt"
    file.write_text(text, encoding="utf-8")
    return load_any_suite("text", SuiteConfig(kind=SuiteKind.perplexity, path=str(file)))


def token_by_token(model, ids, first, window, stride, edges):
    """Return the sum of nats of the tokens between consecutive edges, with one forward pass for each token."""
    sums = []
    for begin, end in itertools.pairwise(edges):
        total = 0.0
        for at in range(max(begin, first), end):
            start = max(begin, first) + (at - max(begin, first)) // stride * stride
            last = min(start + stride, end)
            context = torch.tensor([ids[max(0, last - window) : at]])
            with torch.no_grad():
                total -= torch.log_softmax(model(context).logits[0, -1].double(), -1)[ids[at]].item()
        sums.append(total)
    return sums


@pytest.mark.parametrize(("window", "stride"), [(24, 8), (40, 39), (500, 250)])
def test_every_token_is_predicted_once_after_its_window(build, runs_dir, tmp_path, window, stride):
    suite = suite_of(tmp_path, TEXT[:560])
    tokenizer = AutoTokenizer.from_pretrained(runs_dir / "base")
    model = build(max_position_embeddings=1024).eval()
    encoded = tokenizer("".join(text_parts(TEXT[:560])), add_special_tokens=False, return_offsets_mapping=True)
    edges, begin = [], 0
    for part in [*text_parts(TEXT[:560]), ""]:
        edges.append(sum(offset < begin for offset, _ in encoded["offset_mapping"]))
        begin += len(part)
    expected = token_by_token(model, encoded["input_ids"], 1, window, stride, edges)
    use_packed_attention(model)
    batches = part_records(
        LossModel(model, packed=True, chunk=64), tokenizer, suite.items, suite.items, window=window, stride=stride,
        max_tokens=600,
    )  # fmt: skip
    records = [record for batch in batches for record in batch]
    assert [record["nats"] for record in records] == pytest.approx(expected, rel=1e-4)
    assert sum(record["scored_tokens"] for record in records) == len(encoded["input_ids"]) - 1
    assert sum(record["scored_bytes"] for record in records) == len(TEXT[:560].encode()) - 1
    metrics = text_metrics(records)
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(sum(expected) / (edges[-1] - 1)), rel=1e-4)
    assert metrics["bits_per_byte"]["low"] < metrics["bits_per_byte"]["value"] < metrics["bits_per_byte"]["high"]


@given(st.text(alphabet="ab \n\u00e9", max_size=900))
def test_parts_are_the_text(text):
    parts = text_parts(text)
    assert "".join(parts) == (text if text.strip() else "")
    assert all(0 < len(part) <= 250 for part in parts)


def test_a_text_that_cannot_be_read_is_refused(tmp_path):
    file = tmp_path / "text.txt"
    suite = SuiteConfig(kind=SuiteKind.perplexity, path=str(file))
    with pytest.raises(SftError, match="there is no file"):
        load_any_suite("text", suite)
    file.write_bytes("é".encode("latin1"))
    with pytest.raises(SftError, match=r"not UTF-8 \(byte 0\)"):
        load_any_suite("text", suite)
    file.write_text(" \n")
    with pytest.raises(SftError, match="holds no text"):
        load_any_suite("text", suite)


def test_both_models_are_measured_and_the_tax_is_their_relative_loss(run_of, capsys):
    run = run_of("lora")
    words = ["eval=perplexity", "eval.limit=4", "eval.retention=[perplexity.bits_per_byte]"]
    execute(["eval", str(run), *words])
    assert "without results of the base model: add --compare base" in capsys.readouterr().out
    execute(["eval", str(run), *words, "--compare", "base"])
    scores = {json.loads((file.parent / "suite.json").read_text())["model"]["label"]: json.loads(file.read_text())
              for file in run.glob("eval/perplexity-*/scores.json")}  # fmt: skip
    assert scores["tuned"]["counts"]["items"] == 4
    assert scores["tuned"]["counts"]["tokens"] > 100
    assert scores["tuned"]["metrics"].keys() == {"bits_per_byte", "perplexity"}
    tax = json.loads((run / "eval" / "alignment_tax.json").read_text())
    entry = tax["scores"][0]
    assert entry["loss"]["value"] == pytest.approx((entry["tuned"] - entry["base"]) / entry["base"])
    assert entry["tuned"] == pytest.approx(scores["tuned"]["metrics"]["bits_per_byte"]["value"], rel=0.05)
    assert tax["alignment_tax"]["value"] == pytest.approx(entry["loss"]["value"])
    assert "mean loss over 1 score against the base model" in capsys.readouterr().out
    with pytest.raises(SftError, match=r"perplexity\.bits_per_byte"):
        execute(["eval", str(run), "eval=perplexity", "eval.limit=4", "eval.retention=[perplexity.acc]"])


def test_the_tax_is_a_mean_with_the_error_of_independent_losses():
    losses = [
        paired_difference([1, 1, 0, 1] * 20, [0, 1, 0, 1] * 20),
        paired_difference([0.5] * 9, [0.2, 0.4, 0.6] * 3),
    ]
    tax = alignment_tax([loss for loss in losses if loss is not None])
    assert tax.value == pytest.approx((-0.25 - 0.1) / 2)
    width = 1.959964 * math.sqrt(sum(loss.error**2 for loss in losses)) / 2
    assert (tax.low, tax.high) == pytest.approx((tax.value - width, tax.value + width), rel=1e-5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval.suites.perplexity.stride=64 eval.suites.perplexity.window=64", "no context"),
        ("eval.suites.perplexity.temperature=1", "would have no effect"),
        ("eval.retention=[gsm8k]", "there is no suite 'gsm8k'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(run_of, word, message):
    with pytest.raises(Exception, match=message):
        execute(["eval", str(run_of("lora")), "eval=perplexity", *word.split()])
