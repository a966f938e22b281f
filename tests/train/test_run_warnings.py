"""Warnings about poor settings: given only when they apply, with a fix that works."""

import re
from pathlib import Path

import pytest

from sft_cli.config.automatic import resolve_auto
from sft_cli.config.compose import compose
from sft_cli.data.prepared import PreparedData
from sft_cli.train.setup.run_warnings import find_run_warnings


def warnings(words, examples=1000, *, held_out=True, other_template=False):
    """Return the warnings about a run, by name."""
    prepared = PreparedData(Path("p"), {"replaces_own_template": other_template}, None, None, [])  # pyright: ignore[reportArgumentType]
    config = resolve_auto(compose(words), examples)
    return {one.name: one for one in find_run_warnings(config, prepared, examples=examples, held_out=held_out)}


@pytest.mark.parametrize(
    ("words", "examples", "text", "fix"),
    [
        (["trainer.examples_per_step=64", "trainer.epochs=1"], 300, "5 steps", "trainer.examples_per_step=4"),
        ([], 30, "24 steps", "trainer.epochs=7"),
        (["trainer.examples_per_step=128"], 100, "3 steps", "trainer.examples_per_step=4"),
        (["trainer.examples_per_step=128"], 30, "3 steps", "trainer.examples_per_step=4 trainer.epochs=7"),
        (["trainer.max_steps=1"], 300, "1 step", "remove trainer.max_steps, or set trainer.max_steps=50 or more"),
    ],
)
def test_step_warning(words, examples, text, fix):
    warning = warnings(words, examples)["steps"]
    assert (warning.text, warning.fix) == (f"{text} in all: the model will change little", fix)
    if "remove" not in fix:
        assert "steps" not in warnings([*words, *fix.split()], examples), "the advice helps"


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        (["adapter=none", "trainer.lr=2e-4"], "trainer.lr=0.0002 is large for full tuning"),
        (["trainer.lr=1e-6"], "trainer.lr=1e-06 is small for adapter=lora"),
        (["adapter=ia3", "trainer.lr=2e-5"], "trainer.lr=2e-05 is small for adapter=ia3"),
        (["adapter=none", "trainer.optimizer=muon", "trainer.lr=1e-3"], None),
        (["recipe=quickstart"], None),
        *(([f"adapter={kind}"], None) for kind in ("lora", "none", "ia3", "vera", "oft", "prefix", "prompt", "bitfit")),
    ],
)
def test_lr_warning(words, lr):
    warning = warnings(words).get("lr")
    assert (lr is None) == (warning is None)
    if warning is not None:
        assert warning.text.startswith(f"{lr}, usually trained between ")
        assert "lr" not in warnings([*words, re.match(r"\S+(?=,)", warning.fix)[0]])


def test_template_and_holdout_warnings():
    assert set(warnings([])) == set()
    assert set(warnings(["template=llama2"], other_template=True, held_out=False)) == {"template", "held out"}
    assert "but template=llama2 is used" in warnings(["template=llama2"], other_template=True)["template"].text
    warning = warnings(["data.val_fraction=0"], held_out=False)["held out"]
    assert warning.text == "no rows are held out: overfitting will not be visible"
