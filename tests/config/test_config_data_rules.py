"""Errors in the mix, its stages and the split."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import Mistakes, SftError

A = "data.mix.a.path=a.jsonl"
B = "data.mix.b.path=b.jsonl"


def errors_of(words) -> list[tuple[str, str]]:
    with pytest.raises(SftError) as caught:
        compose(words)
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    return [(error.problem, error.fix) for error in errors]


MISTAKES = [
    (
        ["data.stopping_strategy=total_rows", "data.strategy=equal"],
        "data.stopping_strategy is total_rows, but data.total_rows is not set",
        "set data.total_rows=100000",
    ),
    (
        ["data.total_rows=1000"],
        "data.total_rows is 1000, but data.stopping_strategy is first_exhausted: it would not be read",
        "set data.stopping_strategy=total_rows, or remove data.total_rows",
    ),
    (
        [A, "data.mix.a.epochs=2", "data.stopping_strategy=total_rows", "data.total_rows=1000"],
        "data.stopping_strategy is total_rows, but every source has epochs, which already set the rows of an epoch",
        "remove epochs from a source, or remove data.stopping_strategy",
    ),
    (
        ["data.val_rows=100", "data.val_fraction=0.1"],
        "data.val_rows is 100 and data.val_fraction 0.1: both set the held-out rows",
        "keep one of them",
    ),
    (
        [A, B, "data.stages=[{},{mix:{aa:1.0}}]"],
        "data.stages.1.mix names 'aa', which is not a source of data.mix",
        "did you mean a? sources: a, b",
    ),
    (
        [A, "data.stages=[{mix:{zebra:1.0}},{}]"],
        "data.stages.0.mix names 'zebra', which is not a source of data.mix",
        "sources: a",
    ),
    (
        [A, B, "data.stages=[{mix:{a:1.0,b:0.0}},{}]"],
        "data.stages.0.mix.b is 0; a weight must be above 0",
        "remove b from this stage's mix, or give it a weight such as 1.0",
    ),
    (
        [A, B, "data.stages=[{mix:{a:1.0}},{mix:{a:2.0}}]"],
        "the source b is in no stage's mix: its rows would never be trained on",
        "name it in a stage, or remove data.mix.b",
    ),
    (
        [A, "data.stages=[{order:by_length,difficulty:loss}]"],
        "data.stages.0.difficulty is 'loss', but the stage's order is by_length: it would not be read",
        "set order: by_difficulty, or remove difficulty",
    ),
    (
        ["data.temperature=3"],
        "data.temperature would have no effect: data.strategy is proportional",
        "set data.strategy=temperature, or remove data.temperature",
    ),
    (
        ["data.stopping_strategy=all_exhausted"],
        "data.stopping_strategy would have no effect: with data.strategy=proportional the weights are numbers of"
        " passes, which set the rows of an epoch",
        "set data.strategy=equal, temperature or trained_tokens, or remove data.stopping_strategy",
    ),
    (
        [A, "data.mix.a.epochs=2", "data.strategy=equal"],
        "data.strategy would have no effect: every source has epochs, which take precedence",
        "remove epochs from a source, or remove data.strategy",
    ),
    (
        [A, "data.mix.a.epochs=2", "data.mix.a.weight=2"],
        "data.mix.a.weight would have no effect: a has epochs, which set the number of passes",
        "set data.mix.a.epochs=null, or remove data.mix.a.weight",
    ),
    (
        [A, "data.mix.a.epochs=2", "data.mix.a.cap=2"],
        "data.mix.a.cap would have no effect: a has epochs, which set the number of passes",
        "set data.mix.a.epochs=null, or remove data.mix.a.cap",
    ),
    (
        [A, B, "data.strategy=equal", "data.mix.a.cap=100"],
        "data.mix.a.cap would have no effect: with data.strategy=equal shares do not follow sizes",
        "set data.strategy=proportional or temperature, or remove data.mix.a.cap",
    ),
    (
        [A, "data.strategy=equal", "data.mix.a.weight=2", "data.stages=[{mix:{a:1.0}}]"],
        "data.mix.a.weight would have no effect: every stage of data.stages has its own weights",
        "set the weight there, or remove data.mix.a.weight",
    ),
    (
        ["data=quickstart", "data.val_rows=10"],
        "data.val_rows would have no effect: every source has its own held-out rows",
        "remove validation_path or validation_split of a source, or remove data.val_rows",
    ),
]


@pytest.mark.parametrize(("words", "problem", "fix"), MISTAKES, ids=[f"{n} {m[0][-1]}" for n, m in enumerate(MISTAKES)])
def test_conflicting_keys_are_errors(words, problem, fix):
    assert errors_of(words) == [(problem, fix)]


FINE = [
    ["data.stopping_strategy=total_rows", "data.total_rows=10"],
    ["data.strategy=temperature", "data.temperature=3", "data.stopping_strategy=all_exhausted"],
    [A, B, "data.mix.a.epochs=2", "data.strategy=trained_tokens"],
    [A, B, "data.mix.a.weight=2", "data.stages=[{mix:{a:1.0}},{mix:{b:1.0},order:by_difficulty,difficulty:loss}]"],
    [A, "data.mix.a.cap=100"],
    [A, "data.mix.a.cap=100", "data.strategy=temperature"],
    ["data=[quickstart,alpaca]", "data.val_fraction=0.1"],
    [A, "data.val_rows=10", "trainer.patience=2", "model.path=x"],
]


@pytest.mark.parametrize("words", FINE, ids=[words[-1] for words in FINE])
def test_valid_keys_have_no_errors(words):
    from sft_cli.config.rules.check import check_required

    config = compose(words)
    if config.model.path:
        check_required(config)


def test_unused_keys_in_a_recipe_are_allowed(tmp_path, monkeypatch):
    """A file may set a temperature for a strategy that ignores it; only typed keys must have an effect."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("data: {strategy: temperature, temperature: 3.0}\n")
    assert compose(["recipe=mine.yaml", "data.strategy=equal"]).data.temperature == 3.0


def test_mistake_in_a_file_names_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "data:\n  mix:\n    a:\n      path: a.jsonl\n  stages:\n    - mix: {b: 1.0}\n    - {}\n"
    )
    with pytest.raises(SftError) as caught:
        compose(["recipe=mine.yaml"])
    assert caught.value.where == "mine.yaml:5"
