"""Check that packages import only lower layers and the packages listed below."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "sft_cli"

LAYERS = {
    "errors": "",
    "types": "",
    "escape": "",
    "text_layout": "",
    "sandbox": "",
    "quickstart": "",
    "utils": "errors",
    "run_dir": "errors utils",
    "progress": "escape text_layout utils",
    "console": "escape text_layout progress",
    "config": "errors utils run_dir",
    "docs": "errors utils config",
    "endpoint": "errors utils",
    "scoring": "errors utils endpoint",
    "error_boundary": "errors escape text_layout progress console config",
    "distributed": "errors utils console config",
    "data": "errors types sandbox utils config",
    "chat": "errors types sandbox utils config",
    "report": "errors types escape utils console config data chat",
    "batching": "config data",
    "model": "errors utils run_dir progress console config distributed batching",
    # Perplexity is scored by a model: one filter of ten, loaded when it is asked for.
    "clean": "errors types utils console config data chat batching model",
    "prepare": "errors types utils progress console config data chat report clean",
    "merge": "errors utils run_dir console config scoring chat model",
    "export": "errors utils run_dir console config chat model merge",
    "serve": "errors utils run_dir console config merge",
    "verify": "errors utils run_dir console config chat export serve",
    "suites": "errors types utils run_dir console config scoring data",
    "eval": "errors types escape text_layout utils run_dir progress console config endpoint scoring distributed data"
    " chat report batching model prepare suites",
    "blame": "errors utils run_dir console config scoring data chat report clean suites eval",
    "synth": "errors sandbox utils run_dir progress console config endpoint scoring clean suites eval model",
    "slurm": "errors config data prepare",
    "train": "errors utils run_dir progress console config scoring distributed data chat report batching model prepare"
    " merge suites eval",
    "compare": "errors utils run_dir console config scoring prepare suites",
    "eval_report": "errors utils run_dir console scoring report suites eval blame compare",
    "sweep": "errors utils run_dir progress console config distributed data report prepare slurm train",
    "board": "errors utils run_dir console config data report train compare eval_report",
    "importing": "errors utils console config data",
    "check": "errors utils run_dir progress console config data chat batching model prepare train",
    "cli": "errors utils run_dir progress console config docs error_boundary scoring distributed data report"
    " prepare merge export serve verify suites eval blame synth slurm train compare eval_report sweep board importing"
    " check",
    "__main__": "cli",
}
"""Each package, or module at the top, from the bottom up, and what it may import: lines above its own."""
MAY_IMPORT_TORCH = (
    "batching",
    "model",
    "merge",
    "export",
    "eval",
    "train",
    "distributed.process_group",
    "check.torch_checks",
)
"""Where torch and its family may be imported at module level; elsewhere a function imports them when it runs."""
MAY_IMPORT_HYDRA = ("config.compose", "config.overrides.grammar")
HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name below sft_cli; a package by that of its folder."""
    files = {file.relative_to(PACKAGE).with_suffix("").parts: file for file in sorted(PACKAGE.rglob("*.py"))}
    names = {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for parts, file in files.items()}
    return {name: file for name, file in names.items() if name}


@cache
def nodes(file: Path) -> list[Any]:
    """Return the syntax tree of a file and every node in it."""
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def imports(file: Path, *, nested: bool = True) -> Iterator[str]:
    """Dotted names a file imports, inside functions too if ``nested``; ``from a import b`` gives ``a`` and ``a.b``."""
    for node in nodes(file) if nested else nodes(file)[0].body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(module: str) -> str:
    """Return the top-level package of a module."""
    return module.partition(".")[0]


def imported_packages(file: Path) -> set[str]:
    """Return the packages of sft_cli that a file imports from."""
    names = (name.removeprefix("sft_cli.") for name in imports(file) if name.startswith("sft_cli."))
    return {package(name) for name in names if package(name) in LAYERS}


def within(module: str, places: tuple[str, ...]) -> bool:
    """Return whether a module is one of some modules, or in one of some packages."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def roots(file: Path, *, nested: bool) -> set[str]:
    """Return the distributions a file imports: ``torch`` for ``torch.nn``."""
    return {name.partition(".")[0] for name in imports(file, nested=nested)}


def test_packages_import_only_from_those_below_them():
    order = list(LAYERS)
    assert [name for name, below in LAYERS.items() if not set(below.split()) <= set(order[: order.index(name)])] == []
    assert [module for module in modules() if package(module) not in LAYERS] == []
    found = {module: imported_packages(file) - {package(module)} for module, file in modules().items()}
    wrong = {module: names - set(LAYERS[package(module)].split()) for module, names in found.items()}
    assert {module: sorted(names) for module, names in wrong.items() if names} == {}
    used = {name: set().union(*(found[module] for module in found if package(module) == name)) for name in LAYERS}
    unused = {name: sorted(set(below.split()) - used[name]) for name, below in LAYERS.items()}
    assert {name: names for name, names in unused.items() if names} == {}


def test_torch_and_its_family_are_imported_at_module_level_only_where_models_are():
    wrong = {
        module: found
        for module, file in modules().items()
        if not within(module, MAY_IMPORT_TORCH) and (found := roots(file, nested=False) & HEAVY)
    }
    assert wrong == {}


def test_hydra_is_imported_only_where_configs_are_composed():
    found = {module for module, file in modules().items() if roots(file, nested=True) & {"hydra", "omegaconf"}}
    assert found == set(MAY_IMPORT_HYDRA)


def test_only_the_entry_point_imports_the_command_line_and_its_framework():
    found = {module: set(imports(file)) for module, file in modules().items()}
    importing = [module for module, names in found.items() if any(name.startswith("sft_cli.cli") for name in names)]
    assert [module for module in importing if package(module) != "cli"] == ["__main__"]
    using = [module for module in found if roots(modules()[module], nested=True) & {"typer", "click"}]
    assert {package(module) for module in using} == {"cli"}
