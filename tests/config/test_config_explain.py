"""``sft show``: every value with its origin; ``--keys``: every key with its documentation."""

import pytest

from sft_cli.config.explain import describe_keys, show_config
from sft_cli.config.keys.valid_keys import KEYS


def test_show_prints_the_origin_of_every_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("run_name: mine\nadapter:\n  rank: 8\n")
    words = ["recipe=mine.yaml", "quant=nf4", "template=alpaca", "trainer.lr=1e-3", "data.mix.own={path: a.jsonl}"]
    lines = show_config(words).splitlines()
    found = {tuple(part.strip() for part in line.split("  # ")) for line in lines if "  # " in line}
    assert lines[:2] == [
        "# recipe: mine.yaml",
        "# options: model=custom data=local clean=leakage template=alpaca adapter=lora quant=nf4 trainer=default "
        "eval=heldout synth=respond distributed=ddp launcher=local",
    ]
    assert {
        ("run_name: mine", "mine.yaml:1"),
        ("rank: 8", "mine.yaml:3"),
        ("alpha: 32.0", "default"),
        ("kind: nf4", "configs/quant/nf4.yaml:2"),
        ("lr: 0.001", "command line"),
        ("schedule: cosine", "configs/trainer/default.yaml:2"),
        ("path: a.jsonl", "command line"),
        ("weight: 1.0", "default"),
        ('input_separator: "\\n\\n### Input:\\n"', "configs/template/alpaca.yaml:3"),
        ("betas: [0.9, 0.999]", "default"),
        ("time: 24:00:00", "default"),
    } <= found


def test_origin_names_a_recipe_and_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [quickstart]\ntrainer:\n  epochs: 3\n")
    text = show_config(["recipe=mine.yaml"])
    assert text.startswith("# recipe: mine.yaml on recipes/quickstart.yaml\n")
    assert "# mine.yaml:3\n" in text


@pytest.mark.parametrize(
    "entry",
    [
        "trainer.lr: auto or number > 0 = auto\n    Peak learning rate; auto: 2e-4;",
        "trainer.max_steps: whole number >= 1, or null = null\n    Stop after this many optimizer steps",
        "quant.kind: none | nf4 | fp4 | int8 = none\n    none, nf4, fp4 or int8.",
        "trainer.betas: list of 2 x number = [0.9, 0.999]\n    Decay rates of AdamW's moments, also",
        "data.mix.<name>.columns: mapping of names to text = {}\n    Names the format expects",
    ],
)
def test_show_keys_explains_a_key(entry):
    assert entry in describe_keys()


def test_keys_show_the_default_of_their_section():
    """Two sections of one class can have different defaults: only data.budget limits dropped rows."""
    found = {name: KEYS[name].default for name in ("data.budget.dropped", "data.mix.<name>.budget.dropped")}
    assert found == {"data.budget.dropped": 0.01, "data.mix.<name>.budget.dropped": None}
    assert "data.budget.dropped: number >= 0 <= 1, or null = 0.01\n" in describe_keys()
    assert "data.stages: list of sections = []\n" in describe_keys()
