"""The words of a command line, ``key=value`` each: which choose a group's option, which set a value."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
"""A list without quotes and without a list or mapping in it."""
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
NAMED_TEMPLATES = ("default", "rag", "tool_use")
"""Names of templates that tokenizers bring themselves: ``template=rag`` is no option of ours, but a name to look up."""
_CLEAR = {"data": "data=local", "model": "model=custom"}
"""Groups for which a path may stand -> the option that leaves the choice to the path's key."""
_PATHS = {"data": "data.mix.local.path", "model": "model.path", "template": "template.path"}


class OverrideError(Exception):
    """A value whose grammar is broken; the message says how."""


@dataclass(frozen=True)
class ParsedOverrides:
    """A command line, taken apart.

    Attributes:
        groups: The chosen option, or list of options, by group; ``recipe`` is one of the groups.
        values: Values by dotted key, in the order they were typed.
        mistakes: What could not be understood.
    """

    groups: Mapping[str, str | list[str]]
    values: Mapping[str, Any]
    mistakes: tuple[SftError, ...]

    def explicit_keys(self) -> frozenset[str]:
        """The keys that were set by hand; a template chosen as an option counts as its name."""
        return frozenset(self.values) | ({"template.name"} if "template" in self.groups else frozenset())


def parse_overrides(
    words: Sequence[str],
    parse: Callable[[str], Any],
    recipes: Collection[str] = (),
    options: Mapping[str, Collection[str]] | None = None,
) -> ParsedOverrides:
    """Every word sorted; where a key is set twice the last one holds.

    Args:
        words: As typed.
        parse: A value's text -> the value; raises ``Unreadable``.
        recipes: Names of recipes, for a hint at a forgotten ``recipe=``.
        options: Names of the options by group; any other text that names a file stands for its path's key.
    """
    groups: dict[str, str | list[str]] = {}
    values: dict[str, Any] = {}
    whole, mistakes = rejoin_split_words(words)
    whole = expand_paths(whole, options or {})
    bare = [word for word in whole if "=" not in word and DATA_FILE.fullmatch(word)]
    if bare:
        mistakes.append(_several_files(bare))
    for word in (word for word in whole if word not in bare):
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
            if text and key not in GROUPS and find_key(key) is None:  # what the key should be comes first
                values[key] = text
                continue
            mistakes.append(
                value_error(_shortened(word), key, text, str(error))
                if text
                else SftError(where=COMMAND_LINE, problem=f"{word!r} {error}", fix=f"give it one, or leave {key} out")
            )
    return ParsedOverrides(groups, values, tuple(mistakes))


def expand_paths(words: Sequence[str], options: Mapping[str, Collection[str]]) -> list[str]:
    """The words, ``data=rows.jsonl`` and a bare ``rows.jsonl`` as ``data=local data.mix.local.path=rows.jsonl``."""
    bare = [word for word in words if "=" not in word and DATA_FILE.fullmatch(word)]
    alone = len(bare) == 1 and not any(word.startswith("data=") for word in words)
    found: list[str] = []
    for word in words:
        group, _, text = (f"data={word}" if alone and word in bare else word).partition("=")
        if group in _PATHS and text not in options.get(group, (text,)) and _is_path(group, text):
            found += [*([_CLEAR[group]] if group in _CLEAR else []), f"{_PATHS[group]}={text}"]
        else:
            found.append(word)
    return found


def _is_path(group: str, text: str) -> bool:
    """Whether the text is no option's name but a place: a file, a directory, an address or a hub id."""
    if text[:1] in "[{" or "," in text:
        return False
    if group == "template":
        return text.endswith((".jinja", ".jinja2", ".j2"))
    return is_data_path(text) if group == "data" else "/" in text or Path(text).is_dir()


def _takes_empty(key: str) -> bool:
    """Whether a key may be set to an empty text."""
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
        command: Its name.
        words: Overrides.
        read: The keys it reads, and groups all of whose keys it reads.
        not_read: Patterns of keys of those groups that it does not read -> what works instead, or nothing.
        settable: What can be set, for the advice.
    """
    mistakes = []
    for key in (word.partition("=")[0] for word in words):
        instead = next((fix for pattern, fix in not_read.items() if re.fullmatch(pattern, key)), None)
        if instead is None and (key in read or key.partition(".")[0] in read):
            continue
        problem = f"{command} does not read it; the run's own value is used"
        mistakes.append(
            SftError(where=key, problem=problem, fix=instead or f"leave it out; what can be set: {settable}")
        )
    raise_all(mistakes)


def _options(parse: Callable[[str], Any], text: str) -> str | list[str]:
    if not text.startswith("["):
        return text
    options = parse(text)
    if not isinstance(options, list):
        raise OverrideError("a list of options ends with its bracket, as in [a,b]")
    return [str(option) for option in options]


def _value(parse: Callable[[str], Any], key: str, text: str) -> Any:
    """The value; for a text key the text itself, so that ``model.revision=12345e7`` stays what was typed.

    A list of texts that the grammar cannot read, such as ``[<tool>,</tool>]``, is what stands between its commas.
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
    """A word as a sentence repeats it."""
    return word if len(word) <= SHOWN else f"{word[:SHOWN]}…"


def _not_an_override(word: str, match: re.Match[str] | None, recipes: Collection[str]) -> SftError:
    """What to say about a word that is not ``key=value``."""
    problem = f"{_shortened(word)!r} is not of the form key=value"
    fix = "leave it out, or write key=value without spaces around =, for example trainer.lr=1e-4"
    place = Path(word)
    if match is not None and match["mark"]:
        problem = f"{_shortened(word)!r} begins with {match['mark']}, but keys can only be set"
        known = find_key(match["key"]) is not None or match["key"] in (*GROUPS, "recipe")
        key, value = match["key"], match["value"]
        known_fix = f"write {shell_quote(f'{key}={value}')}" if value else f"leave it out, or write {key}=VALUE"
        fix = known_fix if known else suggest_key(key, value or "")
        if match["mark"] == "~":
            fix = f"leave it out: a key that is not set has its default (sft show --keys {key})"
    elif match is not None and match["value"] is not None:
        fix = suggest_key(match["key"], match["value"])
    elif word in recipes or word.endswith((".yaml", ".yml")):
        fix = f"write recipe={word}"
    elif place.is_dir():
        fix = _directory(place)
    elif word in KEYS or word in GROUPS:
        fix = "give it a value after =, or leave it out"
    elif (near := closest_name(word, recipes)) is not None:
        fix = f"did you mean recipe={near}?"
    return SftError(where=COMMAND_LINE, problem=problem, fix=fix)


def _several_files(bare: Sequence[str]) -> SftError:
    """What to say about several files of rows without keys, or one beside a data= that was chosen."""
    names = [re.sub(r"\W", "_", Path(word).name.partition(".")[0]) for word in bare]
    words = [shell_quote(f"data.mix.{name}.path={word}") for name, word in zip(names, bare, strict=True)]
    return SftError(
        where=COMMAND_LINE,
        problem=f"{_shortened(' '.join(bare))!r} is not of the form key=value",
        fix=f"each source of rows has a name: write {' '.join(words)}",
    )


def _directory(place: Path) -> str:
    """What a directory that was typed alone may be meant for, by its files: a run, a model, or rows."""
    if (place / "environment.json").is_file() or (place / "config.yaml").is_file():
        return f"a run is resumed with sft train --resume {shell_quote(str(place))}"
    key = "model.path" if (place / "config.json").is_file() else "data.mix.local.path"
    return f"write {shell_quote(f'{key}={place}')}"
