"""YAML as this project reads and writes it: 1e-4 is a number, a date and 24:00:00 are text, a key stands once."""

import re
from pathlib import Path
from typing import Any

import yaml

from sft_cli.config.locate import shown
from sft_cli.errors import SftError

# YAML 1.1 wants 1.0e-4 and reads 24:00:00 in base 60; these are the patterns of YAML 1.2 and of OmegaConf.
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT = re.compile(r"[-+]?(0|[1-9]\d*)|0x[0-9a-fA-F]+")
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(yaml.SafeLoader):
    """The safe loader with our numbers, which refuses a key that stands twice."""

    yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in _RESOLVERS.items()}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} stands twice", problem_mark=key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The safe dumper that quotes what our loader would take for a number."""

    yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in _RESOLVERS.items()}  # noqa: RUF012


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Text, double-quoted where it holds line breaks that PyYAML writes bare and then reads as a space."""
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789"))


def read_yaml(file: Path) -> dict[Any, Any]:
    """The mapping a YAML file holds.

    Raises:
        SftError: The file is not YAML, or holds something other than a mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise SftError(where=shown(file), problem="not a text file in UTF-8", fix="save it as UTF-8") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SftError(
            where=shown(file),
            problem=f"holds a {type(content).__name__}, not keys with values",
            fix="write one `key: value` a line, with a space after the colon",
        )
    return content


def write_yaml(content: Any, *, flow: bool = False) -> str:
    """The content as YAML, keys in their order; with ``flow``, on one line."""
    text = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=float("inf")
    )
    return text.removesuffix("...\n").rstrip("\n") if flow else text


def unreadable(file: Path, error: yaml.YAMLError) -> SftError:
    """The sentence for a file that is not YAML."""
    where, problem = shown(file), "not valid YAML"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where, problem = f"{where}:{error.problem_mark.line + 1}", f"not valid YAML: {error.problem}"
    return SftError(
        where=where,
        problem=problem,
        fix="write one `key: value` a line, indented with spaces, with a space after the colon",
    )
