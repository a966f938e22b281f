"""Rejoin a command line: a setting that the shell split into several words is one mistake."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_origin

from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.files.yaml_io import parse_yaml_value
from sft_cli.config.keys.typos import did_you_mean, is_valid_value, override_word, shell_quote, suggest_values
from sft_cli.config.keys.valid_keys import Key, find_key, is_text
from sft_cli.errors import SftError

_SET = re.compile(r"[+~]*[A-Za-z_][\w.-]*=.*", re.DOTALL)
_YAML = re.compile(r"([A-Za-z_][\w.]*):(.*)", re.DOTALL)
SHOWN = 300
"""Characters of a wrong word that a sentence repeats."""
SEVERAL = "holds several values"
"""Why a value with a comma is none."""
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def rejoin_split_words(words: Sequence[str]) -> tuple[list[str], list[SftError]]:
    """The words that are whole, and a mistake for each setting that was not typed as one word."""
    whole: list[str] = []
    mistakes: list[SftError] = []
    place = 0
    while place < len(words):
        taken, found = _split_setting(words, place)
        if isinstance(found, str):
            whole.append(found)
        else:
            mistakes.append(found)
        place += taken
    return whole, mistakes


def _split_setting(words: Sequence[str], place: int) -> tuple[int, SftError | str]:
    """How many words from here are one setting, and what is wrong with how it was typed; the word itself if nothing."""
    here, rest = words[place], words[place + 1 :]
    key, equals, text = here.partition("=")
    bare = list(_until_next_setting(rest))
    known = find_key(key)
    plain = known is not None and is_text(known.kind)  # of a text, brackets are characters like others
    if equals and text and not (plain and text[0] not in "[{") and (opened := _open_brackets(text)):
        parts = _until_closed(text, bare)
        if key not in GROUPS and known is None:  # what the key should be comes first
            return len(parts), f"{key}={' '.join(parts)}"
        return len(parts), _bracket(key, parts, opened)
    if setting := _setting(here, bare):
        number, name, value = setting
        typed = " ".join([here, *bare[: number - 1]])
        return number, _error(typed, "is not of the form key=value", f"write {_word(name, value)}")
    if equals and text and bare and (joined := _path(key, text, bare)):
        number, path = joined
        return number, _error(
            f"{here} …", "was taken apart by the shell at the spaces of its path", shell_quote(f"{key}={path}")
        )
    if equals and text and plain and bare and not key.endswith(("path", "dir")):
        whole = " ".join([here, *bare])
        return 1 + len(bare), _error(whole, "was taken apart by the shell at its spaces", f"write {shell_quote(whole)}")
    return 1, here


def _until_next_setting(words: Sequence[str]) -> Iterator[str]:
    """The words up to the next ``key=value`` or option."""
    for one in words:
        if _SET.fullmatch(one) or (one.startswith("-") and len(one) > 1 and not one[1].isdigit()):
            return
        yield one


def _open_brackets(text: str) -> str:
    """The brackets that are open at the end of a text, outside quotes; a backslash escapes a character."""
    opened: list[str] = []
    quote = ""
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            next(letters, "")
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _CLOSING:
            opened.append(letter)
        elif opened and letter == _CLOSING[opened[-1]]:
            opened.pop()
    return "".join(opened)


def _until_closed(text: str, bare: Sequence[str]) -> list[str]:
    """The text, and the words after it up to the one that closes its brackets; the text alone where none does."""
    parts = [text]
    for one in bare:
        parts.append(one)
        if not _open_brackets(" ".join(parts)):
            return parts
    return [text]


def _bracket(key: str, parts: Sequence[str], opened: str) -> SftError:
    """What to say about ``key=[a, b]`` in two words, or without its end."""
    text = " ".join(parts)
    if len(text) > SHOWN:
        return _error(f"{key}={text}", f"does not close its {opened[-1]}", f"close its brackets, or leave {key} out")
    closed = text if len(parts) > 1 else text + "".join(_CLOSING[one] for one in reversed(opened))
    known = find_key(key)
    plain = closed.strip("'\"")
    found = (
        suggest_values(known.kind, known.limits, plain.strip("()") if plain.startswith("(") else plain) if known else []
    )
    listed = closed.startswith("[") and "{" not in closed
    fix = (
        override_word(key, found[0])
        if found
        else shell_quote(f"{key}={closed.replace(', ', ',') if listed else closed}")
    )
    problem = "was taken apart by the shell at its spaces" if len(parts) > 1 else f"does not close its {opened[-1]}"
    return _error(f"{key}={text}", problem, f"write {fix}")


def _setting(here: str, bare: Sequence[str]) -> tuple[int, str, str] | None:
    """``key = value``, ``key= value``, ``key =value``, ``key: value``, ``key value``: how many words, key and value."""
    key, equals, text = here.partition("=")
    if equals:
        alone = text.strip() or not bare or not _is_key_or_group(key.strip())
        return None if alone else (2, key.strip(), bare[0])
    if bare and bare[0] == "=" and len(bare) > 1:
        return 3, here, bare[1]
    if bare and bare[0].startswith("=") and len(bare[0]) > 1:
        return 2, here, bare[0].lstrip("=")
    if (yaml := _YAML.fullmatch(here)) and _is_key_or_group(yaml[1]):
        return (1, yaml[1], yaml[2]) if yaml[2] else (2, yaml[1], bare[0]) if bare else None
    return (2, here, bare[0]) if bare and _is_key_or_group(here) else None


def _is_key_or_group(key: str) -> bool:
    """Whether this is a key, a group or the recipe."""
    return key in (*GROUPS, "recipe") or find_key(key) is not None


def _path(key: str, text: str, bare: Sequence[str]) -> tuple[int, str] | None:
    """A path that exists, spread over several words."""
    known = find_key(key)
    if known is None or not is_text(known.kind):
        return None
    for number in range(1, len(bare) + 1):
        path = " ".join([text, *bare[:number]])
        if Path(path).expanduser().exists():
            return number + 1, path
    return None


def _word(key: str, value: str) -> str:
    """The setting as one word, with the value that its key takes."""
    known = find_key(key)
    plain = value.strip("'\",;")
    meant = suggest_values(known.kind, known.limits, plain) if known and not is_text(known.kind) else []
    return override_word(key, meant[0]) if meant else shell_quote(f"{key}={plain}")


def value_error(typed: str, key: str, text: str, why: str) -> SftError:
    """A value that no grammar reads, with the one that was meant, or in quotes if it is a text."""
    known = find_key(key)
    if len(text) > SHOWN:
        return _error(typed, why, f"write the value into a recipe, or leave {key} out")
    apart = why == SEVERAL and (known is None or all(_is_complete_value(known, part) for part in text.split(",")))
    several = f"for one run with each value: sft sweep {shell_quote(f'{key}={text}')}" if apart else ""
    if known is not None and (found := suggest_values(known.kind, known.limits, text)):
        also = f" {several}" if several and get_origin(known.kind) not in (list, tuple, dict) else ""
        return _error(typed, why, f"{did_you_mean(key, found)}{also}")
    if key in GROUPS and several:
        return _error(typed, why, several)
    if known is not None and not is_text(known.kind):
        return _error(typed, why, several or f"leave {key} out; what it takes: sft show --keys {key}")
    inside = text.replace("'", "\\'")
    return _error(typed, why, f"""quote it: "{key}='{inside}'\"""")


def _is_complete_value(known: Key, text: str) -> bool:
    """Whether a part of a value with commas is a value by itself."""
    value = parse_yaml_value(text.strip())
    return is_valid_value(known.kind, known.limits, value)


def _error(typed: str, problem: str, fix: str) -> SftError:
    shown = typed if len(typed) <= SHOWN else f"{typed[:SHOWN]}…"
    return SftError(where=COMMAND_LINE, problem=f"{shown!r} {problem}", fix=fix)
