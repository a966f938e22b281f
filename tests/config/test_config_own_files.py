"""Recipes and options of the user: by path, in ./recipes and ./configs, in a directory given with -d."""

import re

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.explain import describe_recipes, show_config
from sft_cli.config.schema.adapter import QuantKind
from sft_cli.errors import SftError

MINE = "# sft train recipe=mine\n# Needs a laptop\ndefaults:\n  - override /quant: nf4\ntrainer:\n  lr: 3e-4\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "words", "dirs"),
    [
        ("mine.yaml", ["recipe=./mine.yaml"], []),
        ("mine.yaml", ["recipe=mine.yaml"], []),
        ("sub dir/mine (1).yaml", ["recipe=sub dir/mine (1).yaml"], []),
        ("sub/mine.yaml", ["recipe=sub/mine"], []),
        ("recipes/mine.yaml", ["recipe=mine"], []),
        ("shelf/mine.yaml", ["recipe=mine"], ["shelf"]),
    ],
)
def test_recipe_file_of_the_user(home, file, words, dirs):
    """The ``# @package`` line is optional."""
    (home / file).parent.mkdir(exist_ok=True)
    (home / file).write_text(MINE)
    config = compose(words, dirs)
    assert (config.trainer.lr, config.quant.kind) == (3e-4, QuantKind.nf4)


@pytest.mark.parametrize(("folder", "dirs"), [("configs", []), ("größe (1), x", ["größe (1), x"])])
def test_option_file_of_the_user(home, folder, dirs):
    (home / folder / "data").mkdir(parents=True)
    (home / folder / "data/own.yaml").write_text("mix:\n  own:\n    path: own.jsonl\n")
    assert list(compose(["data=[own,alpaca]"], dirs).data.mix) == ["own", "alpaca"]


def test_recipe_can_build_on_another(home):
    (home / "mine.yaml").write_text("defaults:\n  - quickstart\n  - override /quant: nf4\ntrainer:\n  epochs: 3\n")
    config = compose(["recipe=mine.yaml"])
    assert (config.model.path, config.trainer.epochs, config.trainer.lr) == ("builtin:quickstart/model", 3, 2e-3)
    assert config.quant.kind is QuantKind.nf4


def test_output_of_show_is_a_recipe(home):
    words = ["recipe=quickstart", "trainer.lr=1e-3", "data.mix.more.path=x y.jsonl", "launcher=slurm"]
    (home / "again.yaml").write_text(show_config(words))
    assert compose(["recipe=again.yaml"]) == compose(words)


def test_ambiguous_recipe_name_is_an_error(home):
    (home / "recipes").mkdir()
    (home / "recipes/quickstart.yaml").write_text(MINE)
    with pytest.raises(SftError) as caught:
        compose(["recipe=quickstart"])
    assert str(caught.value) == (
        "command line: the recipe 'quickstart' is ambiguous: "
        "recipes/quickstart.yaml (package) and recipes/quickstart.yaml\n"
        "  fix: name the file: recipe=./recipes/quickstart.yaml"
    )
    assert compose(["recipe=./recipes/quickstart.yaml"]).trainer.lr == 3e-4


def test_ambiguous_option_name_is_an_error(home):
    (home / "configs/quant").mkdir(parents=True)
    (home / "configs/quant/nf4.yaml").write_text("kind: int8\n")
    with pytest.raises(SftError) as caught:
        compose(["quant=nf4"])
    assert str(caught.value) == (
        "command line: quant=nf4 is ambiguous: configs/quant/nf4.yaml (package) and configs/quant/nf4.yaml\n"
        "  fix: rename one of the files"
    )
    assert compose([]).quant.kind is QuantKind.none, "a foreign ./configs has no effect"


def test_recipes_lists_one_per_line_and_prints_one_with_its_header(home):
    (home / "shelf").mkdir()
    (home / "shelf/mine.yaml").write_text(MINE)
    listing = describe_recipes([], ["shelf"])
    assert re.search(r"^mine +Needs a laptop$", listing, re.MULTILINE)
    assert listing.endswith("sft recipes NAME prints its whole description; sft train recipe=NAME runs it.")
    assert (
        describe_recipes(["mine"], ["shelf"])
        == "mine  (shelf/mine.yaml)\n    sft train recipe=mine\n    Needs a laptop"
    )
    with pytest.raises(SftError, match="there is no recipe 'mien'"):
        describe_recipes(["mien"], ["shelf"])
