"""Parse the ``key=value`` words of a command line into chosen options and values."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.config.files.choices import missing_recipe_file
from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.keys.translate import DATA_FILE, is_data_path
from sft_cli.config.keys.typos import shell_quote
from sft_cli.config.keys.valid_keys import KEYS, find_key, is_text, is_text_mapping, suggest_key
from sft_cli.config.overrides.shell import SHOWN, rejoin_split_words, value_error
from sft_cli.errors import SftError, raise_all
from sft_cli.utils.similar import closest_name

_WORD = re.compile(r"(?P<mark>\+\+|\+|~)?(?P<key>[^=\s+~][^=\s]*)(?:=(?P<value>.*))?", re.DOTALL)
_LIST = re.compile(r"""\[[^\[\]{}'"]+\]""")
"""A list that contains no quotes, lists or mappings."""
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
NAMED_TEMPLATES = ("default", "rag", "tool_use")
"""Names of templates inside tokenizers: ``template=rag`` is not an option here, but selects that template."""
_CLEAR = {"data": "data=local", "model": "model=custom"}
"""Groups whose value may be a path -> the option to choose along with the path."""
_PATHS = {"data": "data.mix.local.path", "model": "model.path", "template": "template.path"}


class OverrideError(Exception):
    """A value that cannot be parsed; the message gives the reason."""


@dataclass(frozen=True)
class ParsedOverrides:
    """A parsed command line.

    Attributes:
        groups: The chosen option, or list of options, by group; ``recipe`` counts as a group.
        values: Values by dotted key, in typed order.
        mistakes: Words that could not be parsed.
    """

    groups: Mapping[str, str | list[str]]
    values: Mapping[str, Any]
    mistakes: tuple[SftError, ...]

    def explicit_keys(self) -> frozenset[str]:
        """Return the keys set on the command line; a template chosen as an option counts as ``template.name``."""
        return frozenset(self.values) | ({"template.name"} if "template" in self.groups else frozenset())


def parse_overrides(
    words: Sequence[str],
    parse: Callable[[str], Any],
    recipes: Collection[str] = (),
    options: Mapping[str, Collection[str]] | None = None,
) -> ParsedOverrides:
    """Parse every word; where a key is set twice the last value holds.

    Args:
        words: The words as typed.
        parse: Function from a value's text to the value; raises ``OverrideError``.
        recipes: Names of recipes, for a hint at a missing ``recipe=``.
        options: Names of the options by group; any other text that names a file sets the group's path.
    """
    groups: dict[str, str | list[str]] = {}
    values: dict[str, Any] = {}
    complete, mistakes = rejoin_split_words(words)
    complete = expand_paths(complete, options or {})
    bare = [word for word in complete if "=" not in word and DATA_FILE.fullmatch(word)]
    if bare:
        mistakes.append(_several_files(bare))
    for word in (word for word in complete if word not in bare):
        match = _WORD.fullmatch(word)
        if match is None or match["value"] is None or match["mark"] or not _KEY.fullmatch(match["key"]):
            mistakes.append(_not_an_override(word, match, recipes))
            continue
        key, text = match["key"], match["value"].strip()
        try:
            if not text and (key in (*GROUPS, "recipe") or not _takes_empty(key)):
                raise OverrideError("has no value")
            if key == "recipe":
                groups[key] = text
            elif key in GROUPS:
                groups[key] = _options(parse, text)
                if key == "template" and text in NAMED_TEMPLATES:
                    groups[key], values["template.name"] = "auto", text
            else:
                values.pop(key, None)
                values[key] = _value(parse, key, text)
        except OverrideError as error:
            if text and key not in GROUPS and find_key(key) is None:  # the unknown key is reported first
                values[key] = text
                continue
            mistakes.append(
                value_error(_shortened(word), key, text, str(error), words)
                if text
                else SftError(where=COMMAND_LINE, problem=f"{word!r} {error}", fix=f"give it a value, or remove {key}")
            )
    return ParsedOverrides(groups, values, tuple(mistakes))


def expand_paths(words: Sequence[str], options: Mapping[str, Collection[str]]) -> list[str]:
    """Return the words with ``data=rows.jsonl`` and a bare ``rows.jsonl`` expanded to options and paths.

    Both become ``data=local data.mix.local.path=rows.jsonl``.
    """
    bare = [word for word in words if "=" not in word and DATA_FILE.fullmatch(word)]
    is_only_file = len(bare) == 1 and not any(word.startswith("data=") for word in words)
    expanded: list[str] = []
    for word in words:
        group, _, text = (f"data={word}" if is_only_file and word in bare else word).partition("=")
        if group in _PATHS and text not in options.get(group, (text,)) and _is_path(group, text):
            expanded += [*([_CLEAR[group]] if group in _CLEAR else []), f"{_PATHS[group]}={text}"]
        else:
            expanded.append(word)
    return expanded


def _is_path(group: str, text: str) -> bool:
    """Return whether the text is a file, a directory, an address or a hub id, not the name of an option."""
    if text[:1] in "[{" or "," in text:
        return False
    if group == "template":
        return text.endswith((".jinja", ".jinja2", ".j2"))
    return is_data_path(text) if group == "data" else "/" in text or Path(text).is_dir()


def _takes_empty(key: str) -> bool:
    """Return whether a key may be set to an empty text."""
    known = find_key(key)
    return known is None or is_text(known.kind)


def reject_unused(
    command: str,
    words: Sequence[str],
    *,
    read: Collection[str],
    not_read: Mapping[str, str],
    settable: str,
) -> None:
    """Refuse overrides that would have no effect on a command that works on a finished run.

    Args:
        command: Name of the command.
        words: The overrides.
        read: Keys that the command reads, and groups whose keys it reads.
        not_read: Patterns of keys of those groups that it does not read -> the fix, or an empty text.
        settable: Text that lists the keys that can be set, for the fix.
    """
    mistakes = []
    for key in (word.partition("=")[0] for word in words):
        replacement = next((fix for pattern, fix in not_read.items() if re.fullmatch(pattern, key)), None)
        if replacement is None and (key in read or key.partition(".")[0] in read):
            continue
        problem = f"{command} does not read this key; it uses the value of the run"
        mistakes.append(
            SftError(where=key, problem=problem, fix=replacement or f"remove it; keys that can be set: {settable}")
        )
    raise_all(mistakes)


def _options(parse: Callable[[str], Any], text: str) -> str | list[str]:
    if not text.startswith("["):
        return text
    options = parse(text)
    if not isinstance(options, list):
        raise OverrideError("a list of options must end with a bracket, as in [a,b]")
    return [str(option) for option in options]


def _value(parse: Callable[[str], Any], key: str, text: str) -> Any:
    """Parse a value; that of a text key is the text itself, so that ``model.revision=12345e7`` is unchanged.

    A list of texts that the grammar cannot parse, such as ``[<tool>,</tool>]``, is split at its commas.
    """
    known = find_key(key)
    if known is not None and known.kind == list[str] and _LIST.fullmatch(text):
        try:
            return parse(text)
        except OverrideError:
            return [part.strip() for part in text[1:-1].split(",")]
    if known is None or not is_text(known.kind) or (text.startswith("{") and is_text_mapping(known.kind)):
        return parse(text)
    if text == "null":
        return None
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        return parse(text)
    return text


def _shortened(word: str) -> str:
    """Return a word, truncated for a message."""
    return word if len(word) <= SHOWN else f"{word[:SHOWN]}…"


def _not_an_override(word: str, match: re.Match[str] | None, recipes: Collection[str]) -> SftError:
    """Return the error for a word that is not ``key=value``."""
    problem = f"{_shortened(word)!r} is not of the form key=value"
    fix = "remove it, or write key=value without spaces around =, for example trainer.lr=1e-4"
    path = Path(word)
    if match is not None and match["mark"]:
        problem = f"{_shortened(word)!r} begins with {match['mark']}, but a key can only be set"
        is_known = find_key(match["key"]) is not None or match["key"] in (*GROUPS, "recipe")
        key, value = match["key"], match["value"]
        known_fix = f"write {shell_quote(f'{key}={value}')}" if value else f"remove it, or write {key}=VALUE"
        fix = known_fix if is_known else suggest_key(key, value or "")
        if match["mark"] == "~":
            fix = f"remove it: a key without a value has its default (sft show --keys {key})"
    elif match is not None and match["value"] is not None:
        fix = suggest_key(match["key"], match["value"])
    elif word.endswith((".yaml", ".yml")) and not path.is_file():
        return missing_recipe_file(word, recipes, COMMAND_LINE)
    elif word in recipes or word.endswith((".yaml", ".yml")):
        fix = f"write recipe={word}"
    elif path.is_dir():
        fix = _directory(path)
    elif word in KEYS or word in GROUPS:
        fix = f"give it a value with {word}=, or remove it"
    elif (similar := closest_name(word, recipes)) is not None:
        fix = f"did you mean recipe={similar}?"
    return SftError(where=COMMAND_LINE, problem=problem, fix=fix)


def _several_files(bare: Sequence[str]) -> SftError:
    """Return the error for several files of rows without keys, or one in addition to a ``data=``."""
    names = [re.sub(r"\W", "_", Path(word).name.partition(".")[0]) for word in bare]
    words = [shell_quote(f"data.mix.{name}.path={word}") for name, word in zip(names, bare, strict=True)]
    return SftError(
        where=COMMAND_LINE,
        problem=f"{_shortened(' '.join(bare))!r} is not of the form key=value",
        fix=f"each source of rows has a name: write {' '.join(words)}",
    )


def _directory(path: Path) -> str:
    """Return the fix for a directory typed without a key, by its files: a run, a model, or rows."""
    if (path / "environment.json").is_file() or (path / "config.yaml").is_file():
        return f"a run is resumed with sft train --resume {shell_quote(str(path))}"
    key = "model.path" if (path / "config.json").is_file() else "data.mix.local.path"
    return f"write {shell_quote(f'{key}={path}')}"
