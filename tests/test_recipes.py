"""Every recipe and every group option on the disk composes, and every recipe says what it is."""

import re
from pathlib import Path

import pytest
import yaml

from sft_cli.config.check import required
from sft_cli.config.compose import compose
from sft_cli.config.explain import header
from sft_cli.config.locate import GROUPS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
OPTIONS = sorted((ROOT / "configs").glob("*/*.yaml"))


def left_open(file: Path) -> list[str]:
    """The keys of a recipe whose value is ???, all of them paths of sources."""
    mix = (yaml.safe_load(file.read_text(encoding="utf-8")).get("data") or {}).get("mix") or {}
    return [f"data.mix.{name}.path" for name, source in mix.items() if source.get("path") == "???"]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_composes_and_names_all_it_needs(file):
    """What it leaves to the user, ???, is the place of his own data."""
    config = compose([f"recipe={file.stem}", *(f"{key}=rows.jsonl" for key in left_open(file))])
    required(config)
    assert config.run_name == file.stem


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_begins_with_its_command_its_needs_and_its_source(file):
    assert file.read_text(encoding="utf-8").startswith("# @package _global_\n")
    command, needs, *rest = header(file)
    assert command == f"sft train recipe={file.stem}"
    assert needs.startswith("Needs")
    assert any(line.startswith("Hyperparameters: ") for line in rest)


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_a_group_option_composes(file):
    group, option = file.parent.name, file.stem
    config = compose([f"{group}={option}", "adapter=lora"] if group == "quant" else [f"{group}={option}"])
    kinds = {"adapter": config.adapter.kind, "quant": config.quant.kind, "launcher": config.launcher.kind}
    assert group not in kinds or kinds[group].value == option
    assert file.read_text(encoding="utf-8").startswith("# "), "the first line says what the option is"


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
def test_a_number_of_hours_or_dollars_is_never_invented(file):
    """Costs come from runs in this repository; until there is one, the header says that it was not measured."""
    text = " ".join(header(file))
    assert "not measured here yet" in text or file.stem == "quickstart"
    assert not re.search(r"\b\d+ (hours?|h)\b|\$\d", text)
