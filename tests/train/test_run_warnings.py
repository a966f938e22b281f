"""What makes a run disappoint: told where it is so, with words that help when they are typed, and nowhere else."""

import re
from pathlib import Path

import pytest

from sft_cli.config.automatic import resolve_auto
from sft_cli.config.compose import compose
from sft_cli.data.prepared import PreparedData
from sft_cli.train.setup.run_warnings import find_run_warnings


def found(words, examples=1000, *, held_out=True, beside=False):
    """The concerns about a run of so many examples, by name."""
    prepared = PreparedData(Path("p"), {"beside_own_template": beside}, None, None, [])  # pyright: ignore[reportArgumentType]
    config = resolve_auto(compose(words), examples)
    return {one.name: one for one in find_run_warnings(config, prepared, examples=examples, held_out=held_out)}


@pytest.mark.parametrize(
    ("words", "examples", "text", "fix"),
    [
        (["trainer.examples_per_step=64", "trainer.epochs=1"], 300, "5 steps", "trainer.examples_per_step=4"),
        ([], 30, "24 steps", "trainer.epochs=7"),
        (["trainer.examples_per_step=128"], 100, "3 steps", "trainer.examples_per_step=4"),
        (["trainer.examples_per_step=128"], 30, "3 steps", "trainer.examples_per_step=4 trainer.epochs=7"),
        (["trainer.max_steps=1"], 300, "1 step", "leave trainer.max_steps out, or trainer.max_steps=50 and more"),
    ],
)
def test_few_steps(words, examples, text, fix):
    told = found(words, examples)["steps"]
    assert (told.text, told.fix) == (f"{text} in all: the model will change little", fix)
    if "leave" not in fix:
        assert "steps" not in found([*words, *fix.split()], examples), "the advice helps"


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
def test_a_learning_rate_of_another_method(words, lr):
    told = found(words).get("lr")
    assert (lr is None) == (told is None)
    if told is not None:
        assert told.text.startswith(f"{lr}, usually trained between ")
        assert "lr" not in found([*words, re.match(r"\S+(?=,)", told.fix)[0]])


def test_a_template_that_is_not_the_tokenizers_own_and_nothing_held_out():
    assert set(found([])) == set()
    assert set(found(["template=llama2"], beside=True, held_out=False)) == {"template", "held out"}
    assert "but template=llama2 is used" in found(["template=llama2"], beside=True)["template"].text
    told = found(["data.val_fraction=0"], held_out=False)["held out"]
    assert told.text == "no rows are held out: overfitting will not be visible"
