"""Rejoin overrides that the shell split into several words, and report each as one mistake."""

import re
from collections.abc import Iterator, Sequence
from typing import get_origin

from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.files.yaml_io import parse_yaml_value
from sft_cli.config.keys.typos import did_you_mean, is_valid_value, override_word, shell_quote, suggest_values
from sft_cli.config.keys.valid_keys import Key, find_key, is_text
from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

_SET = re.compile(r"[+~]*[A-Za-z_][\w.-]*=.*", re.DOTALL)
_YAML = re.compile(r"([A-Za-z_][\w.]*):(.*)", re.DOTALL)
SHOWN = 300
"""Most characters of a wrong word that a message repeats."""
SEVERAL = "holds several values"
"""Reason why a value with a comma is not one value."""
_CLOSING = {"[": "]", "{": "}", "(": ")"}
MAX_SWEPT_WORDS = 20
"""Words of a command line that a fix repeats."""


def rejoin_split_words(words: Sequence[str]) -> tuple[list[str], list[SftError]]:
    """Return the complete words, and a mistake for each override that was not typed as one word."""
    complete: list[str] = []
    mistakes: list[SftError] = []
    start = 0
    while start < len(words):
        count, setting = _split_setting(words, start)
        if isinstance(setting, str):
            complete.append(setting)
        else:
            mistakes.append(setting)
        start += count
    return complete, mistakes


def _split_setting(words: Sequence[str], start: int) -> tuple[int, SftError | str]:
    """Return the number of words that form one override, and the error in them, or the word if it is complete."""
    word, following = words[start], words[start + 1 :]
    key, equals, text = word.partition("=")
    loose = list(_until_next_setting(following))
    known = find_key(key)
    is_text_key = known is not None and is_text(known.kind)  # brackets in a text are ordinary characters
    if equals and text and not (is_text_key and text[0] not in "[{") and (opened := _open_brackets(text)):
        parts = _until_closed(text, loose)
        if key not in GROUPS and known is None:  # the unknown key is reported first
            return len(parts), f"{key}={' '.join(parts)}"
        return len(parts), _bracket(key, parts, opened)
    if setting := _setting(word, loose):
        number, name, value = setting
        typed = " ".join([word, *loose[: number - 1]])
        return number, _error(typed, "is not of the form key=value", f"write {_word(name, value)}")
    if equals and text and loose and (joined := _path(key, text, loose)):
        number, path = joined
        return number, _error(
            f"{word} …", "was split by the shell at the spaces of its path", shell_quote(f"{key}={path}")
        )
    if equals and text and is_text_key and loose and not key.endswith(("path", "dir")):
        joined_words = " ".join([word, *loose])
        return 1 + len(loose), _error(
            joined_words, "was split by the shell at its spaces", f"write {shell_quote(joined_words)}"
        )
    return 1, word


def _until_next_setting(words: Sequence[str]) -> Iterator[str]:
    """Yield the words up to the next ``key=value`` or option."""
    for word in words:
        if _SET.fullmatch(word) or (word.startswith("-") and len(word) > 1 and not word[1].isdigit()):
            return
        yield word


def _open_brackets(text: str) -> str:
    """Return the brackets left open at the end of a text; quotes and backslash escapes are respected."""
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


def _until_closed(text: str, loose: Sequence[str]) -> list[str]:
    """Return the text and the words up to the one that closes its brackets; the text alone without one."""
    parts = [text]
    for word in loose:
        parts.append(word)
        if not _open_brackets(" ".join(parts)):
            return parts
    return [text]


def _bracket(key: str, parts: Sequence[str], opened: str) -> SftError:
    """Return the error for ``key=[a, b]`` in two words, or for brackets that are not closed."""
    text = " ".join(parts)
    if len(text) > SHOWN:
        return _error(f"{key}={text}", f"does not close its {opened[-1]}", f"close its brackets, or remove {key}")
    completed = text if len(parts) > 1 else text + "".join(_CLOSING[bracket] for bracket in reversed(opened))
    known = find_key(key)
    unquoted = completed.strip("'\"")
    suggestions = (
        suggest_values(known.kind, known.limits, unquoted.strip("()") if unquoted.startswith("(") else unquoted)
        if known
        else []
    )
    is_list = completed.startswith("[") and "{" not in completed
    fix = (
        override_word(key, suggestions[0])
        if suggestions
        else shell_quote(f"{key}={completed.replace(', ', ',') if is_list else completed}")
    )
    problem = "was split by the shell at its spaces" if len(parts) > 1 else f"does not close its {opened[-1]}"
    return _error(f"{key}={text}", problem, f"write {fix}")


def _setting(word: str, loose: Sequence[str]) -> tuple[int, str, str] | None:
    """Return number of words, key and value of an override that is not ``key=value``; None for other words.

    Recognized forms: ``key = value``, ``key= value``, ``key =value``, ``key: value`` and ``key value``.
    """
    key, equals, text = word.partition("=")
    if equals:
        is_complete = text.strip() or not loose or not _is_key_or_group(key.strip())
        return None if is_complete else (2, key.strip(), loose[0])
    if loose and loose[0] == "=" and len(loose) > 1:
        return 3, word, loose[1]
    if loose and loose[0].startswith("=") and len(loose[0]) > 1:
        return 2, word, loose[0].lstrip("=")
    if (yaml := _YAML.fullmatch(word)) and _is_key_or_group(yaml[1]):
        return (1, yaml[1], yaml[2]) if yaml[2] else (2, yaml[1], loose[0]) if loose else None
    return (2, word, loose[0]) if loose and _is_key_or_group(word) else None


def _is_key_or_group(key: str) -> bool:
    """Return whether a text is a key, a group or ``recipe``."""
    return key in (*GROUPS, "recipe") or find_key(key) is not None


def _path(key: str, text: str, loose: Sequence[str]) -> tuple[int, str] | None:
    """Return the number of words, and the path, of an existing path that was split; None without one."""
    known = find_key(key)
    if known is None or not is_text(known.kind):
        return None
    for number in range(1, len(loose) + 1):
        path = " ".join([text, *loose[:number]])
        if expand_home(path).exists():
            return number + 1, path
    return None


def _word(key: str, value: str) -> str:
    """Return the override as one word, with a value that its key accepts."""
    known = find_key(key)
    unquoted = value.strip("'\",;")
    suggestions = suggest_values(known.kind, known.limits, unquoted) if known and not is_text(known.kind) else []
    return override_word(key, suggestions[0]) if suggestions else shell_quote(f"{key}={unquoted}")


def value_error(typed: str, key: str, text: str, why: str, words: Sequence[str] = ()) -> SftError:
    """Return the error for a value that cannot be parsed; the fix is a valid value, or the text in quotes.

    Args:
        typed: The word, shortened.
        key: Its key.
        text: Its value.
        why: The reason.
        words: All words of the command line, for a sweep over the values.
    """
    known = find_key(key)
    if len(text) > SHOWN:
        return _error(typed, why, f"write the value into a recipe, or remove {key}")
    is_sweep = why == SEVERAL and (known is None or all(_is_complete_value(known, part) for part in text.split(",")))
    line = " ".join(map(shell_quote, words if len(words) <= MAX_SWEPT_WORDS else ())) or shell_quote(f"{key}={text}")
    sweep_fix = f"for one run with each value: sft sweep {line}" if is_sweep else ""
    if known is not None and (suggestions := suggest_values(known.kind, known.limits, text)):
        addition = f" {sweep_fix}" if sweep_fix and get_origin(known.kind) not in (list, tuple, dict) else ""
        return _error(typed, why, f"{did_you_mean(key, suggestions)}{addition}")
    if key in GROUPS and sweep_fix:
        return _error(typed, why, sweep_fix)
    if known is not None and not is_text(known.kind):
        return _error(typed, why, sweep_fix or f"remove {key}; see its type: sft show --keys {key}")
    escaped = text.replace("'", "\\'")
    return _error(typed, why, f"""quote it: "{key}='{escaped}'\"""")


def _is_complete_value(known: Key, text: str) -> bool:
    """Return whether a part of a value with commas is itself a valid value."""
    value = parse_yaml_value(text.strip())
    return is_valid_value(known.kind, known.limits, value)


def _error(typed: str, problem: str, fix: str) -> SftError:
    shortened = typed if len(typed) <= SHOWN else f"{typed[:SHOWN]}…"
    return SftError(where=COMMAND_LINE, problem=f"{shortened!r} {problem}", fix=fix)
