"""Imports flow one way. To move a wall, change these tables in the same commit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sft_cli"

# A module belongs to the longest of these names that it begins with. A room may import itself and the rooms beside it.
MAY_IMPORT = {
    "errors": set(),
    "sandbox": set(),
    "visible": set(),
    "screen": set(),
    "console": {"visible", "screen"},
    # Which process this is; how several meet.
    "ranks": {"errors"},
    "ranks.spawn": {"errors", "config", "ranks"},
    "ranks.group": {"errors", "console", "ranks"},
    "config": {"errors"},
    "config.grammar": {"config"},
    "config.sweeps": {"errors", "config", "config.grammar"},
    "config.compose": {"errors", "config", "config.grammar"},
    "config.explain": {"errors", "config", "config.compose"},
    "data.types": {"errors", "config"},
    "data": {"errors", "console", "config", "data.types"},
    "data.reading": {"errors", "config", "data.types", "data"},
    "data.formats": {"errors", "sandbox", "config", "data.types", "data", "data.reading"},
    "data.mixing": {"errors", "config", "data.types", "data"},
    "data.prepared": {"errors", "config", "data.types", "data", "data.mixing"},
    "chat": {"errors", "sandbox", "config", "data.types"},
    "clean": {"errors", "config", "data.types", "data", "data.reading"},
    "clean.scorer": {
        "errors", "console", "config", "data.types", "chat", "model", "model.attention.documents", "clean",
    },
    "clean.perplexity": {"errors", "config", "data.types", "clean", "clean.scorer"},
    "data.making": {
        "errors", "console", "config", "data.types", "data", "data.reading", "data.formats", "data.mixing",
        "data.prepared", "clean", "chat",
    },
    "report": {
        "errors", "visible", "console", "config", "data.types", "data", "data.mixing", "data.prepared", "chat",
    },
    "data.prepare": {
        "errors", "console", "config", "config.compose", "data.types", "data", "data.mixing", "data.prepared",
        "data.making", "clean", "chat", "report",
    },
    "model.attention.documents": set(),
    "model": {"errors", "console", "config", "data.types", "model.attention.documents", "ranks"},
    "model.merge": {
        "errors", "console", "config", "config.compose", "data.types", "data", "data.prepared", "data.prepare", "chat",
        "model", "model.attention.documents",
    },
    # How examples become a batch: eval needs it, too.
    "train.prefixes": {"data.prepared"},
    "train.placement": {"train.prefixes"},
    "train.layout": {
        "errors", "config", "data.types", "data", "data.prepared", "model.attention.documents", "train.prefixes",
        "train.placement",
    },
    "eval": {
        "visible",
        "errors", "console", "config", "config.compose", "data.types", "data", "data.reading", "data.making",
        "data.prepared", "data.prepare", "chat", "model", "train.layout", "ranks.group",
    },
    "train": {
        "data.making",
        "errors", "console", "config", "config.compose", "data.types", "data", "data.mixing", "data.prepared",
        "data.prepare", "chat", "model", "train.layout", "train.prefixes", "train.placement", "eval", "ranks",
        "ranks.spawn", "ranks.group",
    },
    "sweep": {
        "errors", "console", "config", "config.compose", "config.sweeps", "ranks.spawn", "data.prepare",
        "data.prepared", "report", "slurm", "train",
    },
    # What a member's process runs before it becomes sft train.
    "sweep.member": set(),
    "check": {
        "errors", "console", "config", "config.compose", "data.types", "data", "data.prepared", "data.prepare", "model",
        "train", "check.computed",
    },
    "check.computed": {
        "errors", "console", "config", "data.types", "data", "data.prepared", "data.prepare", "chat", "model", "train",
        "train.layout", "train.prefixes", "train.placement", "check",
    },
    "quickstart": set(),
    "telling": {"errors", "visible", "screen", "console", "config"},
    "slurm": {
        "errors", "console", "telling", "config", "config.compose", "data.types", "data", "data.reading",
        "data.prepare", "chat",
    },
    "usage": {"errors", "config"},
    "cli": {
        "errors", "console", "telling", "usage", "ranks", "config", "config.explain", "data.formats", "data.prepare",
        "report", "train", "eval", "model.merge", "sweep", "check",
    },
    "__main__": {"cli"},
}  # fmt: skip
TORCH_ROOMS = {
    "ranks.group",
    "model",
    "model.attention.documents",
    "model.merge",
    "train.layout",
    "train",
    "eval",
    "check.computed",
}
HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
HYDRA_ROOMS = {"config.grammar", "config.compose", "config.explain"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below sft_cli; ``__init__`` files stand for their package."""
    files = {
        file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): file for file in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix("__init__").removesuffix(".") or "root": file for name, file in sorted(files.items())}


def room(module: str) -> str:
    """The room a module belongs to."""
    names = [name for name in MAY_IMPORT if module == name or module.startswith(f"{name}.")]
    assert names, f"{module} belongs to no room of the table"
    return max(names, key=len)


def imports(file: Path, *, nested: bool = True) -> Iterator[str]:
    """Dotted names a file imports, those inside functions too; ``from a import b`` gives ``a.b`` as well as ``a``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges(file: Path) -> set[str]:
    """The rooms of sft_cli a file imports from."""
    names = {name.removeprefix("sft_cli.") for name in imports(file) if name.startswith("sft_cli.")}
    known = modules()
    return {room(name) for name in names if name in known and not (PACKAGE / name.replace(".", "/")).is_dir()}


MODULES = {name: file for name, file in modules().items() if name != "root"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_rooms_below(module):
    assert edges(MODULES[module]) <= MAY_IMPORT[room(module)] | {room(module)}


@pytest.mark.parametrize("module", MODULES)
def test_torch_and_its_family_are_imported_at_module_level_only_where_models_live(module):
    heavy = {name.partition(".")[0] for name in imports(MODULES[module], nested=False)} & HEAVY
    assert not heavy or room(module) in TORCH_ROOMS


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_in_one_room(module):
    names = {name.partition(".")[0] for name in imports(MODULES[module])} & {"hydra", "omegaconf"}
    assert not names or room(module) in HYDRA_ROOMS


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_cli_or_its_framework(module):
    names = set(imports(MODULES[module]))
    assert "sft_cli.cli" not in names or module == "__main__"
    assert "click" not in names
    assert module == "cli" or "typer" not in names


def test_the_walls_are_looked_at():
    """A table nobody falls foul of proves nothing: the modules are found, and their edges are seen."""
    assert {"errors", "config.schema", "cli"} <= set(MODULES)
    assert edges(MODULES["config.compose"]) >= {"errors", "config"}
    assert "data.prepare" in {name.removeprefix("sft_cli.") for name in imports(MODULES["cli"])}
