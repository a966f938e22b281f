# ruff: noqa: E501
"""Every mistake has a place, a problem and a fix, and all mistakes are reported at once."""

from pathlib import Path

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.keys.aliases import KEY_ALIASES, RENAMED
from sft_cli.config.keys.valid_keys import find_key, suggest_key
from tests.config.helpers import raised_errors

DATA = ", ".join(sorted(file.stem for file in (Path(__file__).parents[2] / "configs/data").glob("*.yaml")))

ERRORS_OF_ONE_WORD = [
    # what is typed, the problem, the fix
    ("trainer.lrr=1e-4", "there is no key trainer.lrr", "did you mean trainer.lr=0.0001?"),
    ("lr=1e-4", "there is no key lr", "did you mean trainer.lr=0.0001?"),
    ("learning_rate=1e-4", "there is no key learning_rate", "here it is called trainer.lr: write trainer.lr=0.0001"),
    ("model.lr=1e-4", "there is no key model.lr", "did you mean trainer.lr=0.0001?"),
    (
        "batch_size=8",
        "there is no key batch_size",
        "here it is called trainer.examples_per_step: write trainer.examples_per_step=8",
    ),
    ("data.mix.mine.pth=x", "there is no key data.mix.mine.pth", "did you mean data.mix.mine.path=x?"),
    (
        "data.mix.mine.streaming=true",
        "there is no key data.mix.mine.streaming",
        "here it is called data.mix.mine.stream: write data.mix.mine.stream=true",
    ),
    (
        "streaming=true",
        "there is no key streaming",
        "here it is called data.mix.<name>.stream: write data.mix.local.stream=true",
    ),
    (
        "data.max_samples=10",
        "there is no key data.max_samples",
        "here it is called data.mix.<name>.max_rows: write data.mix.local.max_rows=10",
    ),
    ("train_on_inputs=true", "there is no key train_on_inputs", "here it is called data.train_on=all"),
    ("mask_history=true", "there is no key mask_history", "here it is called data.train_on=last"),
    (
        "dataset_prepared_path=x",
        "there is no key dataset_prepared_path",
        "here it is called prepared_dir: write prepared_dir=x",
    ),
    (
        "preprocessing_num_workers=4",
        "there is no key preprocessing_num_workers",
        "here it is called data.workers: write data.workers=4",
    ),
    ("packing=true", "there is no key packing", "did you mean speed.packing=true?"),
    (
        "data.template=llama3",
        "there is no key data.template",
        "remove it: the tokenizer's own template is taken, or choose template= one of alpaca, auto, chatml, llama2, plain, vicuna",
    ),
    ("clean.dedup=true", "there is no key clean.dedup", "here it is called clean.steps=[leakage,exact_duplicates]"),
    ("data.stages=[{nam: a}]", "there is no key data.stages.0.nam", "did you mean data.stages.0.name?"),
    (
        "data.stages=[a]",
        "data.stages.0 is 'a'; it is a section with keys",
        "write each stage as {name: first, share: 1}",
    ),
    (
        "data.stages.0.share=2",
        "data.stages is a mapping; it must be a list",
        "write the whole list: 'data.stages=[{share: 2}]'",
    ),
    (
        "data.stages=[{share: 0}]",
        "data.stages.0.share is 0; it must be above 0",
        "write a number above 0, or remove data.stages.0.share (default: 1)",
    ),
    (
        "data.budget.dropped=5",
        "data.budget.dropped is 5; it must be at least 0 and at most 1",
        "did you mean data.budget.dropped=5%?",
    ),
    ("clean.steps=pii", "clean.steps is 'pii'; it must be a list", "did you mean clean.steps=[pii]?"),
    ("trainr.lr=1", "there is no key trainr.lr", "did you mean trainer.lr=1?"),
    ("zzz=1", "there is no key zzz", "remove it; `sft show --keys` lists every key"),
    (
        "adapter=qlora",
        "adapter has no option 'qlora'",
        "write adapter=lora quant=nf4; options: bitfit, dora, eva, ia3, llama_adapter, loftq, lora, loraplus, none, oft, olora, pissa, prefix, prompt, rslora, vera",
    ),
    ("quant=nf5", "quant has no option 'nf5'", "did you mean quant=nf4? options: fp4, int8, nf4, none"),
    (
        "data=alpaca,lima",
        "data has no option 'alpaca,lima'",
        "for several write data=[alpaca,lima]; options: " + DATA,
    ),
    ("model=[custom,quickstart]", "model takes one option, not 2", "choose one of custom, quickstart"),
    ("recipe=qickstart", "there is no recipe 'qickstart'", "did you mean recipe=quickstart? `sft recipes` lists all"),
    ("recipe=zzz", "there is no recipe 'zzz'", "`sft recipes` lists the recipes"),
    (
        "recipe=./mine.yaml",
        "there is no recipe file ./mine.yaml",
        "check the path; `sft recipes` lists the recipes",
    ),
    ("quickstart", "'quickstart' is not of the form key=value", "write recipe=quickstart"),
    ("mine.yaml", "there is no recipe file mine.yaml", "check the path; `sft recipes` lists the recipes"),
    ("trainer.lr", "'trainer.lr' is not of the form key=value", "give it a value with trainer.lr=, or remove it"),
    (
        "trainer.lr =",
        "'trainer.lr =' is not of the form key=value",
        "remove it, or write key=value without spaces around =, for example trainer.lr=1e-4",
    ),
    ("+trainer.lr=1e-4", "'+trainer.lr=1e-4' begins with +, but a key can only be set", "write trainer.lr=1e-4"),
    ("++trainer.lrr=1", "'++trainer.lrr=1' begins with ++, but a key can only be set", "did you mean trainer.lr=1?"),
    ("+recipe=quickstart", "'+recipe=quickstart' begins with +, but a key can only be set", "write recipe=quickstart"),
    (
        "~data.mix",
        "'~data.mix' begins with ~, but a key can only be set",
        "remove it: a key without a value has its default (sft show --keys data.mix)",
    ),
    ("hydra.run.dir=x", "there is no key hydra.run.dir", "remove it; `sft show --keys` lists every key"),
    (
        "trainer.lr=fast",
        "trainer.lr is 'fast'; it must be a number, or auto",
        "write a number above 0, or remove trainer.lr (default: auto)",
    ),
    (
        "trainer.lr=null",
        "trainer.lr is null; it must be a number, or auto",
        "write a number above 0, or remove trainer.lr (default: auto)",
    ),
    (
        "trainer.lr=nan",
        "trainer.lr is nan; it must be above 0",
        "write a number above 0, or remove trainer.lr (default: auto)",
    ),
    (
        "trainer.lr=inf",
        "trainer.lr is inf; it must be above 0",
        "write a number above 0, or remove trainer.lr (default: auto)",
    ),
    ("trainer.lr=-1", "trainer.lr is -1; it must be above 0", "did you mean trainer.lr=1?"),
    (
        "trainer.seed=2.5",
        "trainer.seed is 2.5; it must be a whole number",
        "did you mean trainer.seed=2 or trainer.seed=3?",
    ),
    (
        "trainer.seed=true",
        "trainer.seed is true; it must be a whole number",
        "write a whole number of at least 0, or remove trainer.seed (default: 42)",
    ),
    (
        "adapter.rank=0",
        "adapter.rank is 0; it must be at least 1",
        "write a whole number of at least 1, or remove adapter.rank (default: 16)",
    ),
    (
        "adapter.dropout=1",
        "adapter.dropout is 1; it must be at least 0 and below 1",
        "did you mean adapter.dropout=1%?",
    ),
    (
        "trainer.schedule=cosin",
        "trainer.schedule is 'cosin', which is not one of its values",
        "did you mean trainer.schedule=cosine? choose one of cosine, linear, constant, cosine_with_min_lr, inverse_sqrt, polynomial, wsd",
    ),
    (
        "trainer.device=gpu",
        "trainer.device is 'gpu', which is not one of its values",
        "did you mean trainer.device=cuda? choose one of auto, cpu, cuda",
    ),
    (
        "trainer.keep_best=yes",
        "trainer.keep_best is 'yes'; it must be true or false",
        "did you mean trainer.keep_best=true?",
    ),
    (
        "trainer.betas=[0.9]",
        "trainer.betas is the list [0.9]; it must be a list of 2 values",
        "write two numbers such as [0.9,0.95], or remove trainer.betas (default: [0.9,0.999])",
    ),
    (
        "trainer.betas=[0.9,2]",
        "trainer.betas.1 is 2.0; it must be at least 0 and below 1",
        "write two numbers of at least 0 and below 1, or remove trainer.betas",
    ),
    (
        "adapter.target_modules=q_proj",
        "adapter.target_modules is 'q_proj'; it must be a list",
        "did you mean adapter.target_modules=[q_proj]?",
    ),
    (
        "trainer.lr=1e-4,2e-4",
        "'trainer.lr=1e-4,2e-4' holds several values",
        "for one run with each value: sft sweep trainer.lr=1e-4,2e-4",
    ),
    ("trainer.lr=(1", "'trainer.lr=(1' does not close its (", "write trainer.lr=1"),
    ("trainer.lr.x=1", "trainer.lr is a mapping; it must be a number, or auto", "did you mean trainer.lr=1?"),
    ("data.mix.a=x.jsonl", "data.mix.a is 'x.jsonl'; it is a section with keys", "write data.mix.a.path=x.jsonl"),
    ("run_name=a/b", "run_name: the name 'a/b' must consist of letters, digits, _ and -", "write run_name=a_b"),
    (
        "trainer.min_lr_ratio=0.2",
        "trainer.min_lr_ratio would have no effect: only the schedules cosine_with_min_lr, polynomial and wsd read it",
        "set trainer.schedule=cosine_with_min_lr, polynomial or wsd, or remove trainer.min_lr_ratio",
    ),
    (
        "launcher.partition=gpu",
        "launcher.partition would have no effect: the job runs in this shell",
        "choose launcher=slurm, or remove launcher.partition",
    ),
]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_key_of_an_earlier_version_suggests_its_current_name(old, new):
    assert find_key(old) is None
    assert find_key(new) is not None
    assert suggest_key(old).startswith(f"here it is called {new}")


def test_aliases_name_valid_keys_and_values():
    """Every key of another tool maps to an existing key, and a value in the alias is valid for that key."""
    for name, meant in KEY_ALIASES.items():
        key, _, value = meant.replace("<name>", "mine").partition("=")
        assert key in GROUPS or find_key(key) or find_key(key.rpartition(".")[0]), (name, meant)
        expected = meant.replace("<name>", "local") if value else meant
        assert suggest_key(f"x.{name}") == f"here it is called {expected}" or (
            value and suggest_key(f"x.{name}", True).endswith(expected)
        )
        assert not value or compose([f"{key}={value}"])


@pytest.mark.parametrize(
    ("word", "problem", "fix"), ERRORS_OF_ONE_WORD, ids=[word for word, _, _ in ERRORS_OF_ONE_WORD]
)
def test_error_about_one_word(word, problem, fix):
    assert raised_errors(lambda: compose([word])) == [("command line", problem, fix)]


TOGETHER = [
    (
        ["trainer.max_length=9000", "speed.tokens_per_micro_batch=8192"],
        "speed.tokens_per_micro_batch is 8192, less than trainer.max_length, 9000: the longest example would not fit",
        "remove it, set speed.tokens_per_micro_batch=9000, or trainer.max_length=8192",
    ),
    (
        ["quant=nf4", "adapter=none"],
        "quant.kind is nf4 without an adapter, but quantized weights cannot be trained",
        "choose adapter=lora, or quant=none",
    ),
    (
        ["adapter=none", "adapter.train_stop_token=always"],
        "adapter.train_stop_token is always without an adapter: full fine-tuning trains every row anyway",
        "set adapter.train_stop_token=auto, or choose adapter=lora",
    ),
    (
        ["adapter=none", "adapter.rank=8"],
        "adapter.rank would have no effect: there is no adapter",
        "choose adapter=lora, or remove adapter.rank",
    ),
    (
        ["template=alpaca", "template.path=my.jinja"],
        "template.name would have no effect: template.path takes precedence",
        "set one of them, or remove template.name",
    ),
    (
        ["data.mix.a.path=x", "data.mix.a.validation_path=y", "data.mix.a.validation_split=z"],
        "data.mix.a names both validation_path and validation_split",
        "keep one of them",
    ),
]


@pytest.mark.parametrize(("words", "problem", "fix"), TOGETHER, ids=[words[0] for words, _, _ in TOGETHER])
def test_conflicting_keys_are_errors(words, problem, fix):
    assert raised_errors(lambda: compose(words)) == [("command line", problem, fix)]


def test_all_mistakes_of_a_command_line_and_its_recipe_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - override /quant: nf5\n\ntrainer:\n  lr: fast\n  epoch: 3\nadapter:\n  rank: 0\n"
    )
    words = ["recipe=mine.yaml", "data=alpacca", "+a=1", "trainer.seed=-1", "modle.path=x", "stray"]
    assert [f"{where}: {problem}" for where, problem, _ in raised_errors(lambda: compose(words))] == [
        "command line: '+a=1' begins with +, but a key can only be set",
        "command line: 'stray' is not of the form key=value",
        "command line: data has no option 'alpacca'",
        "mine.yaml: quant has no option 'nf5'",
        "mine.yaml:8: adapter.rank is 0; it must be at least 1",
        "mine.yaml:5: trainer.lr is 'fast'; it must be a number, or auto",
        "command line: trainer.seed is -1; it must be at least 0",
        "mine.yaml:6: there is no key trainer.epoch",
        "command line: there is no key modle.path",
    ]
