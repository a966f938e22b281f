"""A command line in parts, by the options and arguments that Typer knows of its command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sft_cli.cli.elsewhere import RENAMED


@dataclass(frozen=True)
class Part:
    """Words that belong together: an option with its value, or one word.

    Attributes:
        words: One or two words as typed.
        option: Typer's parameter; None for a word, or for an option that the command does not have.
        value: The value, after ``=`` or in the second word; empty without one.
    """

    words: Sequence[str]
    option: Any
    value: str

    @property
    def name(self) -> str:
        """The first word up to ``=``."""
        return self.words[0].partition("=")[0]

    @property
    def is_option(self) -> bool:
        """Whether it is written as an option."""
        return _is_dashed(self.words[0])

    @property
    def is_setting(self) -> bool:
        """Whether it is a word ``KEY=VALUE``."""
        return not self.is_option and "=" in self.words[0]


@dataclass(frozen=True)
class Command:
    """A command as Typer knows it.

    Attributes:
        name: As it is typed.
        parameters: Typer's parameters.
    """

    name: str
    parameters: Sequence[Any]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Every spelling of every option, such as ``-d`` and ``--config-dir``, with its parameter."""
        return {spelling: one for one in self.parameters if one.param_type_name == "option" for spelling in one.opts}

    @cached_property
    def required(self) -> list[Any]:
        """The arguments that must be there, in their order."""
        return [one for one in self.parameters if one.param_type_name == "argument" and one.required]

    @cached_property
    def single(self) -> list[Any]:
        """The arguments that are one word each, in their order; the required ones come first."""
        return [one for one in self.parameters if one.param_type_name == "argument" and one.nargs == 1]

    @cached_property
    def free(self) -> str | None:
        """What any number of words are: ``KEY=VALUE`` or another name; None where the command takes none."""
        lists = [one for one in self.parameters if one.param_type_name == "argument" and one.nargs == -1]
        return lists[0].metavar if lists else None

    @property
    def takes_keys(self) -> bool:
        """Whether config keys can be set."""
        return self.free == "KEY=VALUE"

    def parts(self, words: Sequence[str]) -> list[Part]:
        """The parts of its command line."""
        return list(self._parts(words))

    def _parts(self, words: Sequence[str]) -> Iterator[Part]:
        place = 0
        while place < len(words):
            part = self._part(words[place], words[place + 1 : place + 2])
            yield part
            place += len(part.words)

    def _part(self, word: str, following: Sequence[str]) -> Part:
        """The part that begins with a word; the next word is its value where it takes one."""
        name, equals, value = word.partition("=")
        if not _is_dashed(word):
            return Part([word], None, value)
        option = self.options.get(name)
        if option is None and not word.startswith("--") and (glued := self.options.get(word[:2])) is not None:
            return Part([word], glued, word[2:])
        takes = not option.is_flag if option is not None else not following or not _is_like_a_part(following[0])
        if equals or not takes or not following:
            return Part([word], option, value)
        return Part([word, following[0]], option, following[0])

    def spelled(self, name: str) -> str | None:
        """How the option or argument of a name is written, ``--max-kl`` or ``RUN``; None where there is none."""
        name = RENAMED.get((self.name, name.replace("-", "_")), name).lower().replace("_", "-")
        for spelling in (f"--{name}", f"-{name}"):
            if (option := self.options.get(spelling)) is not None:
                return max(option.opts, key=len)
        return next((one.metavar for one in self.required if name in (one.name, one.metavar.lower())), None)

    @property
    def names(self) -> list[str]:
        """The names of its options, without those that many commands have."""
        return [one.name for one in self.options.values() if one.name not in ("config_dir", "help")]


def _is_dashed(word: str) -> bool:
    """Whether a word is written as an option; a negative number is none."""
    return word.startswith("-") and len(word) > 1 and not word[1].isdigit()


def _is_like_a_part(word: str) -> bool:
    """Whether a word cannot be the value of an unknown option."""
    return word.startswith("-") or "=" in word
