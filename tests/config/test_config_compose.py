"""Composition of command lines."""

import pytest

from sft_cli.config.automatic import with_learning_rate
from sft_cli.config.compose import compose, with_overrides
from sft_cli.config.schema.adapter import AdapterKind, QuantKind
from sft_cli.config.schema.config import Config, EvalConfig, TemplateConfig
from sft_cli.config.schema.data import Overflow, SourceConfig
from sft_cli.config.schema.suites import SuiteConfig, SuiteKind
from sft_cli.config.schema.trainer import Schedule
from sft_cli.errors import SftError

DEFAULTS = with_learning_rate(Config(eval=EvalConfig(suites={"heldout": SuiteConfig(kind=SuiteKind.heldout)})))


def test_empty_command_line_composes_the_schema_with_default_options():
    assert compose([]) == DEFAULTS


def test_values_arrive_typed():
    config = compose(["trainer.lr=1e-4", "trainer.epochs=3", "trainer.schedule=linear", "trainer.keep_best=false"])
    assert (config.trainer.lr, config.trainer.epochs, config.trainer.keep_best) == (1e-4, 3, False)
    assert config.trainer.schedule is Schedule.linear
    assert compose(["trainer.lr=1"]).trainer.lr == 1.0
    assert type(compose(["trainer.lr=1"]).trainer.lr) is float
    assert compose(["trainer.betas=[0.9,0.95]"]).trainer.betas == (0.9, 0.95)
    assert compose(["adapter.target_modules=[q_proj,v_proj]"]).adapter.target_modules == ["q_proj", "v_proj"]
    assert compose(["trainer.max_steps=null"]).trainer.max_steps is None


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("~/rows(1).jsonl", "~/rows(1).jsonl"),
        ("data/step=100/größe.jsonl", "data/step=100/größe.jsonl"),
        ("rows-*.jsonl", "rows-*.jsonl"),
        ("a,b.jsonl", "a,b.jsonl"),
        ("'two words.jsonl'", "two words.jsonl"),
        ('"#1.jsonl"', "#1.jsonl"),
        ("12345e7", "12345e7"),
        ("true", "true"),
        ("null", None),
        ("", ""),
    ],
)
def test_text_values_are_kept_as_typed(typed, value):
    """Hydra's grammar rejects ~, =, parentheses and umlauts, and reads a commit such as 12345e7 as a number."""
    assert compose([f"data.mix.local.path={typed}"]).data.mix["local"].path == value


LIMITS = [
    ("trainer.lr=0", False), ("trainer.lr=1e-300", True),
    ("adapter.rank=0", False), ("adapter.rank=1", True),
    ("adapter.dropout=-0.1", False), ("adapter.dropout=0", True), ("adapter.dropout=1.0", False),
    ("data.budget.dropped=1", True), ("data.budget.dropped=1.01", False),
]  # fmt: skip


@pytest.mark.parametrize(("word", "inside"), LIMITS)
def test_limits_accept_their_bounds(word, inside):
    if inside:
        compose([word])
    else:
        with pytest.raises(SftError, match="it must be"):
            compose([word])


def test_group_options_set_their_kind():
    config = compose(["quant=nf4", "adapter=lora", "template=alpaca"])
    assert (config.quant.kind, config.adapter.kind) == (QuantKind.nf4, AdapterKind.lora)
    assert config.template == TemplateConfig(name="alpaca", input_separator="\n\n### Input:\n")


def test_command_line_overrides_recipe_and_recipe_overrides_options():
    assert compose(["recipe=quickstart"]).trainer.lr == 2e-3
    assert compose(["recipe=quickstart", "trainer=full"]).trainer.lr == 2e-3
    assert compose(["recipe=quickstart", "trainer.lr=1e-3", "quant=nf4"]).trainer.lr == 1e-3
    assert compose(["recipe=alpaca_qlora", "quant=none"]).quant.kind is QuantKind.none


def test_last_word_for_a_key_is_used():
    assert compose(["trainer.seed=1", "trainer.seed=2", "quant=nf4", "quant=int8"]).trainer.seed == 2
    assert compose(["quant=nf4", "quant=int8"]).quant.kind is QuantKind.int8


def test_mix_names_its_sources():
    config = compose(["data=[alpaca,sharegpt]", "data.mix.alpaca.weight=0.3"])
    assert list(config.data.mix) == ["alpaca", "sharegpt"]
    assert config.data.mix["alpaca"].weight == 0.3
    assert config.data.mix["sharegpt"].format == "sharegpt"


@pytest.mark.parametrize("choice", [[], ["data=local"]])
def test_new_sources_need_no_file(choice):
    typed = [
        "data.mix.local.path=rows.jsonl",
        "data.mix.local.weight=0.3",
        "data.mix.mine.columns.instruction=question",
    ]
    assert compose([*choice, *typed]).data.mix == {
        "local": SourceConfig(path="rows.jsonl", weight=0.3),
        "mine": SourceConfig(columns={"instruction": "question"}),
    }


def test_mapping_on_the_command_line_is_merged():
    config = compose(["data=alpaca", "data.mix.alpaca={weight: 2, columns: {output: answer}}"])
    assert config.data.mix["alpaca"] == SourceConfig(
        path="tatsu-lab/alpaca", format="alpaca", licence="CC BY-NC 4.0", weight=2.0, columns={"output": "answer"}
    )


def test_values_can_refer_to_others():
    assert compose(["trainer.max_length=512", "speed.tokens_per_micro_batch=${trainer.max_length}"]) == compose(
        ["trainer.max_length=512", "speed.tokens_per_micro_batch=512"]
    )


def test_composing_keeps_no_global_state():
    """Hydra and its config store are global: a recipe of one call must not affect the next."""
    compose(["recipe=alpaca_qlora"])
    assert compose([]) == DEFAULTS
    assert compose(["recipe=quickstart"]).quant.kind is QuantKind.none


def test_with_overrides_sets_values_and_replaces_groups():
    config = compose(["recipe=quickstart", "trainer.seed=7"])
    changed = with_overrides(
        config, ["data=local", "data.mix.mine.path=x.jsonl", "trainer.device=cpu", "data.overflow=drop"]
    )
    assert changed.data.mix == {"mine": SourceConfig(path="x.jsonl")}
    assert changed.data.overflow is Overflow.drop
    assert (changed.trainer.seed, changed.trainer.lr, changed.run_name) == (7, 2e-3, "quickstart")
    assert with_overrides(config, []) == config
    assert config.data.mix.keys() == {"quickstart"}


def test_with_overrides_takes_text_literally():
    config = compose(["launcher=slurm", "launcher.setup=source \\${HOME}/venv"])
    assert config.launcher.setup == "source ${HOME}/venv"
    assert with_overrides(config, ["trainer.seed=1"]).launcher.setup == "source ${HOME}/venv"
