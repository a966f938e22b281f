"""Twenty configs with the keys of public ones compose as recipes with the values they mean."""

from pathlib import Path
from typing import Any

import pytest

from sft_cli.config.validate import to_plain
from sft_cli.importing.foreign_config import ForeignConfig
from sft_cli.importing.import_config import translate
from sft_cli.importing.read_config import read_foreign
from sft_cli.importing.recipe import check_recipe, recipe_text
from sft_cli.importing.translation import Outcome, Translation
from sft_cli.utils.mappings import flatten
from tests.importing.config_cases import CASES

CONFIGS = Path(__file__).parent / "configs"


def read(name: str, **known: int) -> Translation:
    return translate(read_foreign(str(CONFIGS / name), None), **known)


def composed(t: Translation) -> dict[str, Any]:
    """Return the values of the composed recipe by dotted key, mappings as they are, too."""
    config = to_plain(check_recipe(t, recipe_text(t, Path("recipe.yaml"))))
    values = dict(flatten(config, keep_empty=True))
    for key in [key for key in values if key.startswith("data.mix.") and key.count(".") == 4]:
        parent, _, name = key.rpartition(".")
        values.setdefault(parent, {})[name] = values[key]
    return values | {"template.variables": config["template"]["variables"]}


def test_there_are_twenty_and_each_has_its_case():
    files = {file.name for file in CONFIGS.iterdir() if file.is_file()}
    assert files == set(CASES)
    assert len(files) == 20


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_config_composes_with_its_values(name):
    tool, expected = CASES[name]
    t = read(name)
    values = composed(t)

    assert t.config.tool == tool
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_key_has_an_entry(name):
    t = read(name)
    named = {key.partition(".")[0].partition(" ")[0] for entry in t.entries for key in entry.keys}

    assert [key for key in t.config.values if key not in named] == []
    assert [entry for entry in t.entries if entry.outcome in (Outcome.none, Outcome.changed) and not entry.reason] == []


def outcome(t: Translation, key: str) -> tuple[Outcome, str]:
    """Return the outcome and the reason of a key."""
    return next((entry.outcome, entry.reason) for entry in t.entries if key in entry.keys)


def test_the_batch_counts_all_gpus():
    t = read("lf_lora.yaml", gpus=4)

    assert composed(t)["trainer.examples_per_step"] == 32
    assert composed(t)["launcher.nproc"] == 4
    assert outcome(t, "gradient_accumulation_steps") == (
        Outcome.translated,
        "1 a GPU x 8 accumulated x 4 GPUs = 32",
    )


def test_packed_rows_count_as_many_tokens():
    t = read("trl_packing.sh", row_tokens=400)
    assert composed(t)["trainer.examples_per_step"] == 41  # 2 x 8 x 1024 / 400
    assert outcome(t, "packing")[0] is Outcome.default


def test_steps_become_shares_when_the_rows_are_known():
    t = read("lf_loraplus.yaml", rows=1000)  # 125 steps an epoch, 3 epochs
    assert composed(t)["trainer.warmup_ratio"] == pytest.approx(20 / 375, abs=1e-6)

    t = read("axolotl_lora.yml", rows=8200, row_tokens=100)  # 82 examples a step, 100 steps an epoch
    assert composed(t)["trainer.eval_every"] == 25


def test_without_rows_a_number_of_steps_has_no_equal():
    assert outcome(read("lf_loraplus.yaml"), "warmup_steps") == (
        Outcome.none,
        "a number of steps; here a share: trainer.warmup_ratio=20/STEPS, or import again with --rows N",
    )


def test_another_value_has_its_reason():
    assert outcome(read("axolotl_two_sources.yml"), "optimizer") == (
        Outcome.changed,
        "lion_8bit there; moments in 32 bits",
    )


def test_open_questions_are_part_of_the_command():
    t = read("lf_unknown_data.yaml")
    assert t.questions == ["adapter.train=[REGEX]", "data.mix.elsewhere.path=FILE"]


def of(tool: str, **values: Any) -> Translation:
    """Return the translation of a few keys."""
    return translate(ForeignConfig("config.yaml", values, tool))


def test_inputs_of_chat_rows_are_trained_without_their_tags():
    chat = [{"path": "a.jsonl", "type": "chat_template"}]
    assert of("axolotl", train_on_inputs=True, datasets=chat).values["data"]["train_on"] == "contents"
    plain = [{"path": "a.jsonl", "type": "alpaca"}]
    assert of("axolotl", train_on_inputs=True, datasets=plain).values["data"]["train_on"] == "all"


@pytest.mark.parametrize(
    ("tool", "values", "key", "expected"),
    [
        ("axolotl", {"val_set_size": 500}, "data.val_rows", 500),
        ("axolotl", {"batch_size": 32, "micro_batch_size": 4}, "trainer.examples_per_step", 32),
        ("axolotl", {"num_epochs": 0.5}, "trainer.epochs", 1),
        ("axolotl", {"gradient_checkpointing": "offload"}, "speed.gradient_checkpointing", "offload"),
        ("axolotl", {"lr_scheduler": "constant"}, "trainer.warmup_ratio", 0.0),
        ("llama-factory", {"ddp_timeout": 3600}, "distributed.timeout_minutes", 60),
        ("llama-factory", {"finetuning_type": "full", "use_muon": True}, "trainer.optimizer", "muon"),
        ("llama-factory", {"finetuning_type": "oft", "oft_block_size": 16}, "adapter.oft.block_size", 16),
        ("llama-factory", {"val_size": 200}, "data.val_rows", 200),
        ("trl", {"lr_scheduler_type": "polynomial", "learning_rate": 1e-4}, "trainer.min_lr_ratio", 0.001),
        ("trl", {"max_steps": -1, "num_train_epochs": 2.0}, "trainer.epochs", 2),
        ("trl", {"dtype": "float16", "bf16": False, "fp16": True}, "trainer.dtype", "float16"),
        ("trl", {"max_seq_length": 77}, "trainer.max_length", 77),
    ],
)
def test_units_and_values(tool, values, key, expected):
    found = dict(flatten(of(tool, **values).values))
    assert found[key] == pytest.approx(expected)


def test_an_unknown_key_names_a_similar_one():
    assert outcome(of("trl", lerning_rate=1e-4), "lerning_rate") == (
        Outcome.none,
        "unknown here; was learning_rate meant?",
    )
