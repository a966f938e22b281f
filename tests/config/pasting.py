"""Extract the commands and settings in the fix of an error, and run them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r"""(?:[^\s'"`]*'[^']*'|[^\s'"`]*"[^"]*"|`[^`]*`|[^\s'"`]+)[,;?.:]*""")
_SETTING = re.compile(r"[A-Za-z_][\w.<>-]*=.+", re.DOTALL)
_OPTION = re.compile(r"--[a-z-]+|-[a-z]")
_PLAIN = re.compile(r"[a-z]+")
FLAGS = ("--changed", "--dry-run", "--explain", "--help", "--plain", "--version")
"""Options without a value; after --keys, a pattern may follow."""
STANDING_FOR = {
    "FILE": "rows.jsonl",
    "FILE.yaml": "mine.yaml",
    "FILE.jinja": "my.jinja",
    "RUN": "runs/s2",
    "DIR": "prepared",
    "NATS": "0.1",
    "DIR_OR_HUB_ID": "builtin:quickstart/model",
    "N": "50",
    "MINUTES": "30",
    "NAME": "quickstart",
    "NUMBER": "2",
    "TOKEN": "<t>",
    "[TOKEN]": "[<t>]",
}
"""Values that a person would type for placeholders in capitals."""


@dataclass(frozen=True)
class Fix:
    """The words that a fix offers.

    Attributes:
        commands: Whole command lines, without ``sft``.
        settings: Alternatives, each of one or several ``key=value`` words, or of an option with its value.
        lines: Lines of YAML.
        leave: Whether removing the mistake is a fix.
    """

    commands: list[list[str]]
    settings: list[list[str]]
    lines: list[str]
    leave: bool

    def __bool__(self) -> bool:
        return bool(self.commands or self.settings or self.lines or self.leave)


def read(fix: str) -> Fix:
    """Return everything in the text of a fix that can be typed."""
    commands, settings, lines, group = [], [], [], []
    tokens = list(_tokens(re.sub(r"`(sft [^`]*)`", r"\1;", fix)))
    place = 0
    while place < len(tokens):
        word, ends = tokens[place]
        if word == "sft" and place + 1 < len(tokens):
            taken = _command(tokens[place + 1 :])
            commands.append([_filled(one) for one in taken])
            place += 1 + len(taken)
            continue
        if word.startswith("`") and ": " in word:
            lines.append(word.strip("`"))
        plain = _bare(word)
        if _OPTION.fullmatch(plain):
            with_value = plain not in FLAGS and not ends and place + 1 < len(tokens)
            settings.append([plain, *([_filled(_bare(tokens[place + 1][0]))] if with_value else [])])
            place += 1 + with_value
            continue
        if _SETTING.fullmatch(plain) and not plain.endswith("="):
            group.append(_filled(plain))
            if ends or place + 1 == len(tokens) or not _SETTING.fullmatch(_bare(tokens[place + 1][0])):
                settings.append(group)
                group = []
        place += 1
    return Fix(commands, settings, lines, re.search(r"\bremov(e|ing) (?!the\b|--)[\w.]+", fix) is not None)


def _tokens(fix: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a fix as the shell sees them, and whether punctuation ends each."""
    for found in _TOKEN.finditer(fix):
        text = found[0]
        bare = re.sub(r"[,;?.:]+$", "", text)
        yield bare, bare != text


def _bare(word: str) -> str:
    """Return a word without shell quotes."""
    if word[:1] in "'\"" or "'" in word or '"' in word:
        try:
            (word,) = shlex.split(word)
        except ValueError:
            return ""
    return word.strip("`()")


def _command(tokens: list[tuple[str, bool]]) -> list[str]:
    """Return the words of a command line that starts after ``sft``."""
    words: list[str] = []
    for word, ends in tokens:
        follows_option = bool(words) and _OPTION.fullmatch(words[-1]) is not None and words[-1] not in FLAGS
        if words and _PLAIN.fullmatch(word) and not follows_option:
            break  # the sentence continues
        words.append(_bare(word))
        if ends:
            break
    return words


def _filled(word: str) -> str:
    """Return a setting with a value in place of a placeholder."""
    key, equals, value = word.replace("<name>", "mine").partition("=")
    if not equals:
        return STANDING_FOR.get(word, word)
    return f"{key}{equals}{STANDING_FOR.get(value, value)}"
