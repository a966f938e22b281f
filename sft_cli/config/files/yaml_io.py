"""Read and write YAML: 1e-4 is a number, a date and 24:00:00 are text, and a repeated key is an error."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sft_cli.config.files.search_path import display_name
from sft_cli.errors import SftError

# YAML 1.1 wants 1.0e-4 and reads 24:00:00 in base 60; these are the patterns of YAML 1.2 and of OmegaConf.
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT = re.compile(r"[-+]?(0|[1-9]\d*)|0x[0-9a-fA-F]+")
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


MAX_BYTES = 1 << 20
"""Of a file: the largest recipe here has 3,000."""
MAX_VALUES = 20_000
"""In a file, counted again for each alias: nine lines can expand to a billion."""
MAX_DEPTH = 40
"""Values inside one another."""
_KEYS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "merge"))


_TWICE = "is set twice"


class _Loader(yaml.SafeLoader):
    """The safe loader with our numbers, which refuses tags, repeated keys, and aliases that multiply."""

    yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in _RESOLVERS.items()}  # noqa: RUF012

    def get_single_node(self) -> yaml.Node | None:
        """Return the document; refuse one with too many values or levels."""
        root = super().get_single_node()
        if root is not None:
            values, depth = _size(root, {})
            if values > MAX_VALUES or depth > MAX_DEPTH:
                much = f"more than {MAX_VALUES:,} values" if values > MAX_VALUES else f"values {depth} deep"
                raise yaml.constructor.ConstructorError(
                    problem=f"it holds {much}, aliases counted", problem_mark=root.start_mark
                )
        return root

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; refuse one with a tag."""
        event = self.peek_event()
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise yaml.constructor.ConstructorError(
                problem=f"the tag {event.tag} is not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; refuse a repeated key, and one that is not text, a number or a truth value."""
        keys = set()
        for key, _ in node.value:
            if key.tag not in _KEYS or key.value in keys:
                what = _TWICE if key.tag in _KEYS else "cannot be a key"
                raise yaml.constructor.ConstructorError(problem=f"{_key(key)} {what}", problem_mark=key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _key(node: yaml.Node) -> str:
    """Return a key as messages show it."""
    return str(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _size(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values of a node with itself, and their depth; aliases are counted where they are used."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise yaml.constructor.ConstructorError(problem="it holds itself", problem_mark=node.start_mark)
        return found
    known[id(node)] = None
    entries = node.value if isinstance(node, yaml.CollectionNode) else ()
    below = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
    sizes = [_size(part, known) for part in below]
    size = 1 + sum(values for values, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    known[id(node)] = size
    return size


class _Dumper(yaml.SafeDumper):
    """The safe dumper that quotes what our loader would take for a number."""

    yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in _RESOLVERS.items()}  # noqa: RUF012


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Represent text; in double quotes if PyYAML would write its line breaks bare and then read them as spaces."""
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789"))


def read_yaml(file: Path) -> dict[Any, Any]:
    """Return the mapping in a YAML file.

    Raises:
        SftError: The file is not YAML, or holds something other than a mapping.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise SftError(
            where=display_name(file),
            problem=f"it has {size:,} bytes; a config has {MAX_BYTES:,} at most",
            fix="write rows of data into a file of their own: data.mix.local.path=FILE",
        )
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise yaml_error(file, error) from error
    except RecursionError as error:
        raise SftError(
            where=display_name(file),
            problem="not valid YAML: values are nested too deeply",
            fix=f"nest at most {MAX_DEPTH} levels",
        ) from error
    except UnicodeDecodeError as error:
        raise SftError(where=display_name(file), problem="not a text file in UTF-8", fix="save it as UTF-8") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise SftError(
            where=display_name(file), problem=f"not valid YAML: {error}", fix="correct the number"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SftError(
            where=display_name(file),
            problem=f"holds a {type(content).__name__}, not keys with values",
            fix="write one `key: value` a line, with a space after the colon",
        )
    return content


def key_lines(file: Path) -> Iterator[tuple[str, int]]:
    """Yield each dotted key of a YAML file that ``read_yaml`` reads, and its line except ``defaults``."""
    yield from _key_lines(yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader), "")


def _key_lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the keys below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name != "defaults":
                yield name, key.start_mark.line + 1
                yield from _key_lines(value, f"{name}.")


def parse_yaml_value(text: str) -> Any:
    """Return a short text as a YAML value; the text itself if it is not valid YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def write_yaml(content: Any, *, flow: bool = False) -> str:
    """Return the content as YAML, keys in their order; with ``flow``, on one line."""
    text = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=float("inf")
    )
    return text.removesuffix("...\n").rstrip("\n") if flow else text


def yaml_error(file: Path, error: yaml.YAMLError) -> SftError:
    """Return the error for a file that is not YAML."""
    where, problem = display_name(file), "not valid YAML"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where, problem = f"{where}:{error.problem_mark.line + 1}", f"not valid YAML: {error.problem}"
    fix = "write one `key: value` a line, indented with spaces, with a space after the colon"
    if problem.endswith(_TWICE):
        key = problem.removesuffix(f" {_TWICE}").rpartition(" ")[2]
        fix = f"write below one `{key}:` what both hold, or keep one of them"
    elif "\\t" in problem:
        fix = "indent with spaces instead of tabs"
    return SftError(where=where, problem=problem, fix=fix)
