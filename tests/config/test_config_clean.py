"""Errors in ``clean``: unknown steps, and keys without effect."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.paths import absolute
from sft_cli.errors import Mistakes, SftError

NAMES = (
    "leakage, exact_duplicates, near_duplicates, contamination, pii, language, length, heuristics, quality, perplexity"
)
MISTAKES = [
    (
        ["clean.steps=[near_duplicate]"],
        "clean.steps names 'near_duplicate', which is not a filter",
        f"did you mean near_duplicates? choose from {NAMES}",
    ),
    (["clean.steps=[x]"], "clean.steps names 'x', which is not a filter", f"choose from {NAMES}"),
    (["clean.steps=[pii,length,pii]"], "clean.steps names pii twice", "keep one of the two"),
    (
        ["clean.near_duplicates.threshold=0.7"],
        "clean.near_duplicates.threshold would have no effect: near_duplicates is not one of clean.steps",
        "set clean.steps=[leakage,near_duplicates], or remove clean.near_duplicates.threshold",
    ),
    (
        ["clean.steps=[near_duplicates]", "clean.near_duplicates.method=rouge_l", "clean.near_duplicates.shingle=2"],
        "clean.near_duplicates.shingle would have no effect: only the method minhash reads it",
        "set clean.near_duplicates.method=minhash, or remove clean.near_duplicates.shingle",
    ),
    (
        ["clean.steps=[near_duplicates]", "clean.near_duplicates.threshold=0.01"],
        "clean.near_duplicates.threshold is 0.01, so low that 128 hash functions would find only 72% of the pairs",
        "raise clean.near_duplicates.threshold or clean.near_duplicates.permutations",
    ),
    (
        ["clean.steps=[contamination]"],
        "clean.steps names contamination, but clean.contamination.against names no evaluation set",
        "set clean.contamination.against.NAME=FILE",
    ),
    (
        [
            "clean.steps=[contamination]",
            "clean.contamination.against.gsm8k=test.jsonl",
            "clean.contamination.columns.gsm=question",
        ],
        "clean.contamination.columns names 'gsm', which is not in clean.contamination.against",
        "did you mean gsm8k? evaluation sets: gsm8k",
    ),
    (
        ["clean.steps=[heuristics]", "clean.heuristics.repetition=false", "clean.heuristics.max_repeated_share=0.3"],
        "clean.heuristics.max_repeated_share would have no effect: the rule repetition is switched off",
        "set clean.heuristics.repetition=true, or remove clean.heuristics.max_repeated_share",
    ),
    (
        ["clean.steps=[pii]", "clean.pii.kinds=[email]", "clean.pii.phone_regions=[DE]"],
        "clean.pii.phone_regions would have no effect: clean.pii.kinds has no phone",
        "add phone to clean.pii.kinds, or remove clean.pii.phone_regions",
    ),
    (
        ["data.mix.a.path=a.jsonl", "data.mix.a.priority=2"],
        "data.mix.a.priority would have no effect: no step looks for duplicates across sources",
        "add exact_duplicates or near_duplicates to clean.steps, or remove data.mix.a.priority",
    ),
]


@pytest.mark.parametrize(("words", "problem", "fix"), MISTAKES)
def test_mistakes(words, problem, fix):
    with pytest.raises(SftError) as caught:
        compose(words)
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    assert [(error.problem, error.fix) for error in errors] == [(problem, fix)]


def test_valid_values_are_accepted():
    config = compose(
        [
            "clean.steps=[leakage,exact_duplicates,near_duplicates,contamination]",
            "clean.near_duplicates.threshold=0.7",
            "clean.contamination.against.gsm8k=test.jsonl",
            "clean.contamination.columns.gsm8k=question",
        ]
    )
    assert config.clean.near_duplicates.threshold == 0.7
    assert config.clean.contamination.against == {"gsm8k": "test.jsonl"}
    rouge = compose(["clean.steps=[near_duplicates]", "clean.near_duplicates.method=rouge_l"])
    assert rouge.clean.near_duplicates.permutations == 128


def test_absolute_config_is_valid_in_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exam.jsonl").write_text("{}", "utf-8")
    (tmp_path / "judge").mkdir()
    words = ["clean.steps=[contamination,perplexity]", "clean.contamination.against.exam=exam.jsonl"]
    config = absolute(compose([*words, "clean.perplexity.model=judge"]))
    assert config.clean.contamination.against == {"exam": str(tmp_path / "exam.jsonl")}
    assert config.clean.perplexity.model == str(tmp_path / "judge")


@pytest.mark.parametrize(
    ("option", "steps"),
    [
        ("leakage", ["leakage"]),
        ("standard", ["leakage", "exact_duplicates", "near_duplicates", "heuristics", "pii"]),
        ("strict", ["leakage", "exact_duplicates", "near_duplicates", "length", "heuristics", "pii"]),
    ],
)
def test_options_of_clean_compose(option, steps):
    clean = compose([f"clean={option}"]).clean
    assert clean.steps == steps
    if option == "leakage":
        assert clean == compose([]).clean


def test_steps_can_be_added_to_an_option():
    clean = compose(["clean=standard", "clean.steps=[pii]", "clean.pii.action=drop"]).clean
    assert (clean.steps, clean.pii.action.value, clean.heuristics.refusals) == (["pii"], "drop", False)


def test_recipe_can_choose_an_option_of_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - override /clean: strict\nclean:\n  heuristics: {refusals: false}\n"
    )
    clean = compose(["recipe=mine.yaml"]).clean
    assert "length" in clean.steps
    assert (clean.heuristics.refusals, clean.heuristics.max_repeated_share) == (False, 0.4)
