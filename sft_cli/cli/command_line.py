"""Parse a command line into parts, using Typer's options and arguments of its command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sft_cli.cli.elsewhere import RENAMED


@dataclass(frozen=True)
class Part:
    """An option with its value, or a single word.

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
        """Whether the part is written as an option."""
        return _is_dashed(self.words[0])

    @property
    def is_setting(self) -> bool:
        """Whether the part is a word ``KEY=VALUE``."""
        return not self.is_option and "=" in self.words[0]


@dataclass(frozen=True)
class Command:
    """A command and its parameters.

    Attributes:
        name: Name as typed.
        parameters: Typer's parameters.
    """

    name: str
    parameters: Sequence[Any]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Every spelling of every option, such as ``-d`` and ``--config-dir``, with its parameter."""
        return {
            spelling: option
            for option in self.parameters
            if option.param_type_name == "option"
            for spelling in option.opts
        }

    @cached_property
    def _arguments(self) -> list[Any]:
        return [parameter for parameter in self.parameters if parameter.param_type_name == "argument"]

    @cached_property
    def required(self) -> list[Any]:
        """The required arguments, in order."""
        return [parameter for parameter in self._arguments if parameter.required]

    @cached_property
    def single(self) -> list[Any]:
        """The arguments of one word each, in order; required ones come first."""
        return [parameter for parameter in self._arguments if parameter.nargs == 1]

    @cached_property
    def free(self) -> str | None:
        """Name of the argument that takes any number of words, such as ``KEY=VALUE``; None without one."""
        lists = [parameter for parameter in self._arguments if parameter.nargs == -1]
        return lists[0].metavar if lists else None

    @property
    def takes_keys(self) -> bool:
        """Whether the command takes config keys."""
        return self.free == "KEY=VALUE"

    def parts(self, words: Sequence[str]) -> list[Part]:
        """Return the parts of a command line of this command."""
        return list(self._parts(words))

    def _parts(self, words: Sequence[str]) -> Iterator[Part]:
        place = 0
        while place < len(words):
            part = self._part(words[place], words[place + 1 : place + 2])
            yield part
            place += len(part.words)

    def _part(self, word: str, following: Sequence[str]) -> Part:
        """Return the part that starts with a word; the next word is its value if it takes one."""
        name, equals, value = word.partition("=")
        if not _is_dashed(word):
            return Part([word], None, value)
        option = self.options.get(name)
        if option is None and not word.startswith("--") and (glued := self.options.get(word[:2])) is not None:
            return Part([word], glued, word[2:])
        takes_value = not option.is_flag if option is not None else not following or not _is_like_a_part(following[0])
        if equals or not takes_value or not following:
            return Part([word], option, value)
        return Part([word, following[0]], option, following[0])

    def spelled(self, name: str) -> str | None:
        """Return the spelling of an option or argument, ``--max-kl`` or ``RUN``; None for an unknown name."""
        name = RENAMED.get((self.name, name.replace("-", "_")), name).lower().replace("_", "-")
        for spelling in (f"--{name}", f"-{name}"):
            if (option := self.options.get(spelling)) is not None:
                return max(option.opts, key=len)
        return next(
            (argument.metavar for argument in self.required if name in (argument.name, argument.metavar.lower())), None
        )

    @property
    def names(self) -> list[str]:
        """Names of the command's options, without common ones."""
        return [option.name for option in self.options.values() if option.name not in ("config_dir", "help")]


def _is_dashed(word: str) -> bool:
    """Return whether a word is written as an option; a negative number is not."""
    return word.startswith("-") and len(word) > 1 and not word[1].isdigit()


def _is_like_a_part(word: str) -> bool:
    """Return whether a word cannot be the value of an unknown option."""
    return word.startswith("-") or "=" in word
