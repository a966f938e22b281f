"""Every recipe and every group option composes, and every recipe documents its requirements."""

import re
from pathlib import Path

import pytest
import yaml

from sft_cli.config.compose import compose
from sft_cli.config.explain import header_lines
from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.validate import to_plain
from sft_cli.errors import Mistakes

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
OPTIONS = sorted((ROOT / "configs").glob("*/*.yaml"))
ALSO_SET = {("adapter", "loftq"): ("quant=nf4",)}
"""Other choices that an option requires."""
VARIANTS = {
    "dora": {"dora": True},
    "eva": {"init": "eva"},
    "loftq": {"init": "loftq"},
    "loraplus": {"lr_ratio": 16},
    "olora": {"init": "olora"},
    "pissa": {"init": "pissa"},
    "rslora": {"rank_stabilized": True},
}
"""Options of the group adapter that are LoRA with something else set."""


def left_open(values, prefix=""):
    """Return the keys of a recipe whose value is ???."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from left_open(value, f"{prefix}{name}.")
        elif value == "???":
            yield f"{prefix}{name}"


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_composes_and_names_all_it_needs(file):
    """What it leaves to the user, ???, is the place of his own files."""
    config = compose([f"recipe={file.stem}", *(f"{key}=rows.jsonl" for key in left_open(read(file)))])
    check_required(config)
    assert config.run_name == file.stem


@pytest.mark.parametrize("file", [file for file in RECIPES if list(left_open(read(file)))], ids=lambda file: file.stem)
def test_open_keys_of_a_recipe_are_required_and_documented(file):
    with pytest.raises(Mistakes) as caught:
        compose([f"recipe={file.stem}"])
    keys = list(left_open(read(file)))
    assert [error.problem for error in caught.value.errors] == [f"{key} is ???: it has no value yet" for key in keys]
    named = [key for key in keys if not key.startswith("data.mix.")]
    assert all(f"{key}=" in " ".join(header_lines(file)) for key in named)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_begins_with_its_command_its_needs_and_its_source(file):
    assert file.read_text(encoding="utf-8").startswith("# @package _global_\n")
    command, needs, *rest = header_lines(file)
    if "synth" in read(file):
        assert command.startswith(f"sft synth recipe={file.stem}")
    else:
        assert command == f"sft train recipe={file.stem}"
    assert needs.startswith("Needs")
    assert any(line.startswith("Hyperparameters: ") for line in rest)


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_a_group_option_composes(file):
    group, option = file.parent.name, file.stem
    config = compose([f"{group}={option}", *ALSO_SET.get((group, option), ())])
    kinds = {"quant": config.quant.kind, "launcher": config.launcher.kind}
    assert group not in kinds or kinds[group].value == option
    assert file.read_text(encoding="utf-8").startswith("# "), "the first line says what the option is"


@pytest.mark.parametrize("option", [file.stem for file in OPTIONS if file.parent.name == "adapter"])
def test_adapter_options_have_the_kind_of_their_name(option):
    adapter = compose([f"adapter={option}", *ALSO_SET.get(("adapter", option), ())]).adapter
    variant = VARIANTS.get(option, {})
    assert adapter.kind.value == ("lora" if variant else option)
    assert {name: to_plain(vars(adapter)[name]) for name in variant} == variant


def test_every_kind_of_adapter_is_an_option():
    assert {kind.value for kind in AdapterKind} | set(VARIANTS) == {
        file.stem for file in OPTIONS if file.parent.name == "adapter"
    }


def test_every_folder_of_options_is_a_group_and_every_group_has_one():
    assert {file.parent.name for file in OPTIONS} == set(GROUPS)
    assert len(RECIPES) >= 5


def test_the_named_templates_have_a_jinja_file():
    named = {file.stem for file in OPTIONS if file.parent.name == "template"} - {"auto"}
    assert named == {file.stem for file in (ROOT / "configs/template").glob("*.jinja")}


def test_the_licence_of_packaged_data_is_stated():
    for name in ("quickstart", "alpaca", "lima", "sharegpt"):
        assert compose([f"data={name}"]).data.mix[name].licence


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_state_no_unmeasured_hours_or_costs(file):
    """Costs come from runs in this repository; until there is one, the header says that it was not measured."""
    text = " ".join(header_lines(file))
    assert "not measured here yet" in text or "recipe=quickstart" in text
    assert not re.search(r"\b\d+ (hours?|h)\b|\$\d", text)
