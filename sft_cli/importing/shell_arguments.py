"""The arguments of ``trl sft`` or ``llamafactory-cli train`` on a command line or in a shell file."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.files.yaml_io import parse_yaml_value, read_yaml
from sft_cli.errors import SftError
from sft_cli.importing.foreign_config import ForeignConfig

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)(?::?-([^}]*))?\}?")
_TRL = re.compile(r"(?:.*/)?sft\.py")
_SCRIPT = re.compile(r"(?:.*/)?(?:train\w*|run_sft\w*|sft\w*)\.py")
"""Scripts of a training whose keys show the tool."""


def is_command_line(text: str) -> bool:
    """Return whether a text is a command of TRL or LLaMA-Factory, or a line of arguments."""
    return re.match(r"\s*(--\w|trl\s|llamafactory-cli\s|accelerate\s|torchrun\s|python\d?\s)", text) is not None


def read_command(text: str, name: str, folder: Path) -> ForeignConfig:
    """Return the arguments of the one command of a shell text.

    Args:
        text: A line, or the content of a shell file.
        name: The file, or ``command line``, for messages.
        folder: The directory of the file.

    Raises:
        SftError: There is no such command, there are several, or it cannot be read.
    """
    commands, variables = _commands(text, name)
    found = [found for words in commands if (found := _arguments(words)) is not None]
    if len(found) != 1:
        many = f"it has {len(found)} commands that train" if found else "it has no command of trl or llamafactory-cli"
        fix = "write the one to import into a file of its own, such as trl sft --model_name_or_path … --dataset_name …"
        raise SftError(where=name, problem=many, fix=fix)
    tool, method, words, gpus = found[0]
    if method not in ("sft", "train"):
        raise SftError(
            where=name,
            problem=f"trl {method} is not supervised fine-tuning",
            fix="import the command of trl sft; preference training and reinforcement learning have no equal here",
        )
    values = _parse([_expand(word, variables, name) for word in words], name, folder)
    processes = values.get("num_processes") or values.get("nproc_per_node")
    if (launch := values.get("accelerate_config")) not in (None, "single_gpu", "multi_gpu"):
        values["deepspeed" if "zero" in str(launch) else "fsdp"] = values.pop("accelerate_config")
    return ForeignConfig(name, values, tool, folder, processes if isinstance(processes, int) else gpus)


def _commands(text: str, name: str) -> tuple[list[list[str]], dict[str, str]]:
    """Return the words of each command of a shell text, and the variables that it sets."""
    joined = re.sub(r"\\\s*\n", " ", text)
    commands, variables = [], dict[str, str]()
    for line in re.split(r"\n|&&|;", joined):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise SftError(where=name, problem=f"a command cannot be read: {error}", fix="close the quotes") from error
        while words and (found := _ASSIGNMENT.fullmatch(words[0])) is not None:
            variables[found[1]] = _VARIABLE.sub(lambda inner: variables.get(inner[1], inner[0]), found[2])
            words = words[1:]
        if words:
            commands.append(words)
    return commands, variables


def _expand(word: str, variables: Mapping[str, str], name: str) -> str:
    """Return a word with the variables of the file replaced."""

    def value(found: re.Match[str]) -> str:
        """Return the value of one variable."""
        known = variables.get(found[1], found[2])
        if known is None:
            problem = f"the value of ${found[1]} is not in the file"
            raise SftError(where=name, problem=problem, fix=f"write it there: {found[1]}=VALUE")
        return known

    return _VARIABLE.sub(value, word)


def _arguments(words: Sequence[str]) -> tuple[str | None, str, list[str], int | None] | None:
    """Return tool, method, arguments and processes of a command; None for another command."""
    gpus = None
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in ("--num_processes", "--nproc_per_node", "--nproc-per-node") and following.isdigit():
            gpus = int(following)
        if word == "trl" or word.endswith("/trl"):
            return "trl", following, list(words[place + 2 :]), None
        if _TRL.fullmatch(word):
            return "trl", "sft", list(words[place + 1 :]), gpus
        if _SCRIPT.fullmatch(word):
            return None, "sft", list(words[place + 1 :]), gpus
        if re.fullmatch(r"(.*/)?(dpo|grpo|kto|reward|ppo|rloo|orpo)\w*\.py", word):
            return "trl", Path(word).stem, list(words[place + 1 :]), gpus
        if word in ("llamafactory-cli", "lmf") or word.endswith("/llamafactory-cli"):
            return "llama-factory", following, list(words[place + 2 :]), None
    return (None, "sft", list(words), None) if words and words[0].startswith("--") else None


def _parse(words: Sequence[str], name: str, folder: Path) -> dict[str, Any]:
    """Return the values of ``--key value``, ``--key=value``, ``key=value`` and ``--switch`` words."""
    values, below, key = dict[str, Any](), dict[str, Any](), None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, text = word[2:].partition("=")
            key = key.replace("-", "_")
            values[key] = parse_yaml_value(text) if equals else True
            key = None if equals else key
        elif key is not None:
            typed = parse_yaml_value(word)
            values[key] = typed if values[key] is True else [*_as_list(values[key]), typed]
        elif "=" in word:
            left, _, text = word.partition("=")
            values[left] = parse_yaml_value(text)
        elif word.endswith((".yaml", ".yml", ".json")):
            below |= _read_below(word, name, folder)
        else:
            fix = "write --key value, or --key=value"
            raise SftError(where=name, problem=f"the word {word!r} belongs to no argument", fix=fix)
    if isinstance(file := values.pop("config", None), str):
        below |= _read_below(file, name, folder)
    negated = {key for key in values if key.startswith("no_") and values[key] is True}
    plain = {key: value for key, value in values.items() if key not in negated}
    return {**below, **plain, **{key.removeprefix("no_"): False for key in negated}}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_below(word: str, name: str, folder: Path) -> dict[str, Any]:
    """Return the keys of a YAML file that a command names."""
    for file in (Path(word), folder / word):
        if file.is_file():
            return read_yaml(file)
    raise SftError(where=name, problem=f"the command names {word}, which does not exist", fix="give its path from here")
