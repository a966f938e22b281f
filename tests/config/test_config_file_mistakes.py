"""Errors of files and of runs: recipes, options, directories, required keys, and the config of an earlier run."""

import pytest

from sft_cli.config.compose import compose, read_config, with_overrides
from sft_cli.config.rules.check import check_required
from tests.config.helpers import raised_errors

RECIPES = [
    (
        "trainer:\n  lr: 1\n lr: 2\n",
        "mine.yaml:3",
        "not valid YAML: expected <block end>, but found '<block mapping start>'",
    ),
    ("trainer:\n\tlr: 1\n", "mine.yaml:2", "not valid YAML: found character '\\t' that cannot start any token"),
    ("trainer:\n  lr: 1\n  lr: 2\n", "mine.yaml:3", "not valid YAML: lr is set twice"),
    ("just words\n", "mine.yaml", "holds a str, not keys with values"),
    ("loss: 3\n", "mine.yaml:1", "loss is 3; it is a section with keys"),
    ("quant: nf5\n", "mine.yaml", "quant has no option 'nf5'"),
    ("model:\n  revision: 1234\n", "mine.yaml:2", "model.revision is 1234; it must be text"),
    ("data:\n  mix:\n    a:\n      path: ???\n", "mine.yaml:4", "data.mix.a.path is ???: it has no value yet"),
    ("defaults:\n  - data: alpaca\n", "mine.yaml", "defaults: `data` chooses no option"),
    ("defaults:\n  - override data: alpaca\n", "mine.yaml", "defaults: `override data` chooses no option"),
    ("defaults:\n  - override /colour: red\n", "mine.yaml", "defaults: {'override /colour': 'red'} is not understood"),
    ("defaults:\n  - no_such_recipe\n", "mine.yaml", "there is no recipe 'no_such_recipe'"),
    (
        "trainer:\n  max_length: ${trainer.longest}\n",
        "trainer.max_length",
        "refers to another value: the key 'trainer.longest' not found",
    ),
]


@pytest.mark.parametrize(("text", "where", "problem"), RECIPES, ids=[problem for _, _, problem in RECIPES])
def test_errors_in_a_recipe_file(text, where, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    assert [(w, p) for w, p, _ in raised_errors(lambda: compose(["recipe=mine.yaml"]))] == [(where, problem)]


def test_invalid_option_file_of_the_user_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/own.yaml").write_text("mix:\n\town: 1\n")
    ((where, problem, _),) = raised_errors(lambda: compose(["data=own"], [str(tmp_path)]))
    assert (where, problem) == (
        f"{tmp_path}/data/own.yaml:2",
        "not valid YAML: found character '\\t' that cannot start any token",
    )


def test_missing_directory_is_named():
    assert raised_errors(lambda: compose([], ["nowhere"])) == [
        (
            "-d nowhere",
            "there is no such directory",
            "-d DIR with recipe files, or with folders such as data/ and trainer/; or remove -d",
        )
    ]


REQUIRED = [
    ("train", [], ["no model is named", "no data is named"]),
    ("prepare", ["model.tokenizer=t"], ["no data is named"]),
    ("prepare", ["model.tokenizer=t", "data.mix.a.path=x"], []),
    ("eval", ["model.tokenizer=t", "data.mix.a.path=x"], ["no model is named"]),
    ("train", ["model.path=m", "data.mix.a.weight=2"], ["the source has no path"]),
    ("train", ["model.path=m", "data.mix.a.path=x"], []),
    (
        "train",
        ["recipe=quickstart", "data=local", "data.mix.a.path=x", "data.val_fraction=0"],
        ["eval.compare_after_training is true, but no rows are held out to compare"],
    ),
    ("train", ["recipe=quickstart", "data=local", "data.mix.a.path=x", "data.val_fraction=0.1"], []),
    (
        "train",
        ["recipe=quickstart", "eval.generate=false"],
        ["eval.compare_after_training is true, but eval.generate is false: there would be no answers to compare"],
    ),
    (
        "train",
        ["model.path=m", "data.mix.a.path=x", "trainer.patience=2", "data.val_fraction=0"],
        ["trainer.patience is set, but no rows are held out to evaluate"],
    ),
    (
        "train",
        ["recipe=quickstart", "trainer.device=cpu", "trainer.dtype=float16", "trainer.optimizer=paged_adamw_8bit"],
        [
            "trainer.dtype is float16 on trainer.device=cpu, where gradients in float16 overflow unnoticed",
            "trainer.optimizer is paged_adamw_8bit, which needs CUDA, but trainer.device is cpu",
        ],
    ),
    (
        "train",
        ["recipe=quickstart", "launcher=slurm", "launcher.gpus=0", "trainer.device=cuda"],
        ["launcher.gpus is 0, but trainer.device is cuda"],
    ),
    ("eval", ["recipe=alpaca_qlora", "trainer.device=cpu"], []),
]


@pytest.mark.parametrize(("command", "words", "problems"), REQUIRED)
def test_check_required_keys(command, words, problems):
    config = compose(words)
    if problems:
        assert [problem for _, problem, _ in raised_errors(lambda: check_required(config, command))] == problems
    else:
        check_required(config, command)


def test_overrides_of_a_run_report_the_same_errors():
    config = compose(["recipe=quickstart"])
    words = ["recipe=alpaca_lora", "trainer.lrr=1", "data=nothing"]
    assert [problem for _, problem, _ in raised_errors(lambda: with_overrides(config, words))] == [
        "the recipe of a run cannot be changed",
        "data has no option 'nothing'",
        "there is no key trainer.lrr",
    ]


def test_config_file_of_a_run_reports_the_same_errors(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("run_name: x\ntrainer:\n  epochs: 0\n  speed: 3\n")
    assert [(where, problem) for where, problem, _ in raised_errors(lambda: read_config(file))] == [
        (f"{file}:3", "trainer.epochs is 0; it must be at least 1"),
        (f"{file}:4", "there is no key trainer.speed"),
    ]
    assert raised_errors(lambda: read_config(tmp_path / "no.yaml"))[0][:2] == (
        f"{tmp_path}/no.yaml",
        "the file does not exist",
    )
