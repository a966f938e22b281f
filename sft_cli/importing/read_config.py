"""Read a config of another tool, and recognize whose it is."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_cli.config.files.search_path import display_name
from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.config.keys.translate import DATA_FILE
from sft_cli.config.keys.typos import shell_quote
from sft_cli.errors import SftError
from sft_cli.importing import axolotl, llama_factory, trl
from sft_cli.importing.foreign_config import TOOLS, ForeignConfig
from sft_cli.importing.shell_arguments import is_command_line, read_command
from sft_cli.utils.home import expand_home

READERS = {"axolotl": axolotl, "llama-factory": llama_factory, "trl": trl}
"""Value of ``--from`` -> the module that translates its keys."""
INFO = "dataset_info.json"
_ENOUGH = 3
"""Keys of one tool, beyond those of any other, that decide between them."""
_SHARDED = "import the training config; sharding is distributed=fsdp"
_V1 = "write it with the keys of llamafactory-cli train"
_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("zero_optimization",), "a DeepSpeed config", _SHARDED),
    (("compute_environment",), "a config of accelerate launch", _SHARDED),
    (("peft_type",), "the config of a saved PEFT adapter", "name its directory in a recipe: adapter.start_from=DIR"),
    (("architectures",), "the config.json of a model", "name its directory in a recipe: model.path=DIR"),
    (("chat_template", "tokenizer_class"), "a tokenizer_config.json", "name its directory: model.tokenizer=DIR"),
    (("export_dir",), "a config that merges or exports", "import the config of the training"),
    (("model_class", "train_dataset"), "a config of LLaMA-Factory's v1 trainer", _V1),
    (("tokenizer", "checkpointer"), "a config of torchtune", "only axolotl, LLaMA-Factory and TRL are read"),
)
"""Keys of files that are no training config of a known tool -> what they are, and what to do."""
_SECTIONS = ("model", "data", "trainer", "adapter", "template", "defaults")


def read_foreign(given: str, tool: str | None) -> ForeignConfig:
    """Return the config of another tool, with its tool.

    Args:
        given: A file, or a line of arguments.
        tool: The tool named by ``--from``; None recognizes it by its keys.

    Raises:
        SftError: It cannot be read, is no config of a known tool, or is not supervised fine-tuning.
    """
    config = _read(given)
    where = config.name
    chosen = tool or config.tool or _recognize(config.values, where, given)
    if config.tool is not None and tool is not None and config.tool != tool:
        problem = f"it is a command of {TOOLS[config.tool]}, not of {TOOLS[tool]}"
        raise SftError(where=where, problem=problem, fix=f"write --from {config.tool}, or remove --from")
    if (other := READERS[chosen].not_supervised(config.values)) is not None:
        raise SftError(
            where=where,
            problem=f"it is not supervised fine-tuning: {other}",
            fix="import the config of the supervised run before it; other objectives have no equal here",
        )
    config = replace(config, tool=chosen)
    return _with_data_info(config) if chosen == "llama-factory" else config


def _read(given: str) -> ForeignConfig:
    """Return the keys of a file or a line."""
    file = expand_home(given)
    try:
        exists = file.exists()
    except OSError:  # a line of arguments is longer than a file name may be
        exists = False
    if not exists and is_command_line(given):
        return read_command(given, "command line", Path())
    name = display_name(file)
    if file.is_dir():
        files = sorted(path for path in file.iterdir() if path.suffix in (".yaml", ".yml"))
        fix = (
            f"name a file: sft import {shell_quote(str(files[0]))}"
            if files
            else "sft import FILE, a config of axolotl, LLaMA-Factory or TRL"
        )
        raise SftError(where=name, problem="it is a directory, not a config", fix=fix)
    if not exists:
        fix = 'correct the path; a line of arguments is written in quotes: sft import "trl sft --model_name_or_path …"'
        raise SftError(where=name, problem="the file does not exist", fix=fix)
    return _read_file(file, name)


def _read_file(file: Path, name: str) -> ForeignConfig:
    """Return the keys of a file by its kind."""
    if DATA_FILE.fullmatch(file.name) and file.suffix not in (".txt", ".json"):
        raise _rows(file, name)
    if file.suffix == ".py":
        fix = 'write the arguments of its config as YAML, or as a line: sft import "trl sft --model_name_or_path …"'
        raise SftError(where=name, problem="it is a Python script, which is not run", fix=fix)
    if file.suffix in (".sh", ".bash", ".txt", ".slurm", ".sbatch"):
        return read_command(_text(file, name), name, file.parent)
    values = _json(file, name) if file.suffix == ".json" else read_yaml(file)
    if not values:
        raise SftError(
            where=name, problem="it is empty", fix="sft import FILE, a config of axolotl, LLaMA-Factory or TRL"
        )
    return ForeignConfig(name, {str(key): value for key, value in values.items()}, folder=file.parent)


def _text(file: Path, name: str) -> str:
    """Return the text of a file."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SftError(where=name, problem="not a text file in UTF-8", fix="save it as UTF-8") from error


def _json(file: Path, name: str) -> dict[str, Any]:
    """Return the mapping of a JSON file."""
    text = _text(file, name)
    try:
        content = json.loads(text)
    except ValueError as error:
        if str(error).startswith("Extra data") and text.startswith("{"):
            raise _rows(file, name) from error
        raise SftError(where=name, problem=f"not valid JSON: {error}", fix="correct the file") from error
    if not isinstance(content, dict):
        raise _rows(file, name)
    return content


def _rows(file: Path, name: str) -> SftError:
    """Return the error for a file of rows."""
    fix = f"train on them: sft train {shell_quote(str(file))} model=DIR_OR_HUB_ID"
    return SftError(where=name, problem="it holds rows of data, not the keys of a config", fix=fix)


def _recognize(values: Mapping[str, Any], name: str, given: str) -> str:
    """Return the tool whose keys the config has."""
    for keys, what, fix in _OTHERS:
        if all(key in values for key in keys):
            raise SftError(where=name, problem=f"it is {what}, not a config of a training", fix=fix)
    if values and all(isinstance(entry, Mapping) and _describes_data(entry) for entry in values.values()):
        fix = f"import the training config next to it, which names data sets of {INFO}"
        raise SftError(where=name, problem=f"it is a {INFO} of LLaMA-Factory, not a config of a training", fix=fix)
    if any(isinstance(values.get(section), Mapping | list) for section in _SECTIONS) and not _marks(values):
        fix = f"train with it: sft train recipe={shell_quote(given)}"
        raise SftError(where=name, problem="it is a recipe of sft already", fix=fix)
    counts = _marks(values)
    best = max(counts, key=lambda tool: len(counts[tool]), default=None)
    others = {key for tool, keys in counts.items() if tool != best for key in keys}
    if best is not None and len(counts[best]) >= (len(others) + _ENOUGH if others else 1):
        return best
    commands = "\n".join(f"sft import {shell_quote(given)} --from {tool}" for tool in (counts or TOOLS))
    if not counts:
        problem = "none of its keys belongs to axolotl, LLaMA-Factory or TRL alone"
    else:
        listed = [f"{', '.join(sorted(keys)[:3])} of {TOOLS[tool]}" for tool, keys in counts.items()]
        problem = f"it has keys of several tools: {'; '.join(listed)}"
    raise SftError(where=name, problem=problem, fix=commands)


def _describes_data(entry: Mapping[str, Any]) -> bool:
    """Return whether a mapping is an entry of ``dataset_info.json``."""
    return any(key in entry for key in ("file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name"))


def _marks(values: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return each tool with the keys that it alone has, of those that occur."""
    found = {tool: set(reader.MARKS & values.keys()) for tool, reader in READERS.items()}
    return {tool: keys for tool, keys in found.items() if keys}


def _with_data_info(config: ForeignConfig) -> ForeignConfig:
    """Return the config with the ``dataset_info.json`` of its directory of data, or of its own directory."""
    named = str(config.values.get("dataset_dir") or "data")
    folders = [Path(named), config.folder / named, config.folder]
    folders += [folder / named for folder in config.folder.resolve().parents[:3]]
    for folder in folders:
        if (file := folder / INFO).is_file():
            return replace(config, data_info=_json(file, display_name(file)), data_dir=folder)
    return config
