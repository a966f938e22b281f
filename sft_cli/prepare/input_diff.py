"""Compare the inputs of two preparations, and name the differences by configuration keys and files."""

from collections.abc import Mapping, Sequence
from typing import Any

THIS_VERSION = "this version of sft_cli"
"""The name for a difference in the code of sft_cli."""
KeyPath = tuple[str, ...]


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return ``data.mix.mine.weight, template changed``; empty if there is no difference."""
    names = changed_names(old, new)
    return f"{', '.join(names)} changed" if names else ""


def changed_names(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names of the differences between the inputs of two preparations, each once."""
    filters = [step["filter"] for step in new["clean"]]
    return list(dict.fromkeys(_key_name(path, filters) for path in changed_paths(old, new)))


def changed_paths(old: Any, new: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Return the paths of the values that differ.

    Lists of pairs are compared by the first elements of the pairs, other lists as a whole.
    """
    if path[-1:] != ("clean",):
        old, new = _by_name(old), _by_name(new)
    elif isinstance(old, list) and isinstance(new, list):
        old, new = ({str(i): step for i, step in enumerate(steps)} for steps in (old, new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [path]
    paths: list[KeyPath] = []
    for key in [*new, *(key for key in old if key not in new)]:
        paths += changed_paths(old.get(key), new.get(key), (*path, str(key)))
    return paths


def _by_name(value: Any) -> Any:
    """Return ``[[name, digest], …]`` as a mapping; any other value unchanged."""
    is_pairs = isinstance(value, list) and value and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    return {str(name): digest for name, digest in value} if is_pairs else value


def _key_name(path: KeyPath, filters: Sequence[str]) -> str:
    """Return the configuration key or file of a path."""
    match path:
        case ("rows", name, "content", _, "files"):
            return f"the files of data.mix.{name}"
        case ("rows", name, "content", _, "files", file):
            return f"{file} (data.mix.{name})"
        case ("rows", name, "content", *rest):
            return f"data.mix.{name} ({'.'.join(rest)})"
        case ("rows", name, "rules", *rest):
            return ".".join(("data.mix", name, *rest))
        case ("rows", _, "input_separator"):
            return "template.input_separator"
        case ("rows", name):
            return f"data.mix.{name}"
        case ("clean", number, "rules", *rest) if int(number) < len(filters):
            return ".".join(("clean", filters[int(number)], *rest))
        case ("clean", _) | ("clean", _, "filter"):
            return "clean.steps"
        case ("encode", "rules", *rest) | ("mix", "rules", *rest):
            return ".".join(("data", *rest))
        case ("encode", "content_tokens", *_):
            return "data.content_tokens or model.add_tokens"
        case ("encode", "max_length"):
            return "trainer.max_length"
        case ("encode", "libraries", library) | ("clean", _, "libraries", library):
            return f"the version of {library}"
        case ("mix", "order"):
            return "the order of data.mix"
        case ("mix", "sources", *rest):
            return ".".join(("data.mix", *rest))
        case ("mix", "seed") | ("rows", _, "seed"):
            return "trainer.seed"
        case (*_, "code") | ("version",):
            return THIS_VERSION
        case ("encode", *rest):
            return ".".join(rest)
        case _:
            return ".".join(path)
