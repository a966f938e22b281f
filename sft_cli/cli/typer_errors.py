"""Typer's own errors as the errors of this program: where, what is wrong, and what to type."""

from collections.abc import Sequence
from typing import Any

import typer

from sft_cli.cli.command_line import Command
from sft_cli.errors import SftError


def as_sft_error(error: typer.TyperException, command: Command | None, words: Sequence[str]) -> SftError:
    """The error that says the same.

    Args:
        error: Typer's.
        command: The command that was typed, if there is one.
        words: Its command line.
    """
    if isinstance(error, typer.BadParameter) and error.param is not None and command is not None:
        return _bad_value(error.message, error.param, command, words)
    name = f"sft {command.name}" if command else "sft"
    return SftError(where=name, problem=_sentence(error.format_message()), fix=f"{name} --help lists what it takes")


def _bad_value(message: str, parameter: Any, command: Command, words: Sequence[str]) -> SftError:
    """What to say about the value of an option: the one that was probably meant."""
    from sft_cli.config.keys.typos import format_typed, shell_quote, suggest_choices, suggest_values

    if parameter.param_type_name != "option":
        fix = f"sft {command.name} --help says what it takes"
        return SftError(where=f"sft {command.name}", problem=_sentence(message), fix=fix)
    name = max(parameter.opts, key=len)
    typed = next((part.value for part in command.parts(words) if part.option is parameter), "")
    known = parameter.type_descriptor.choices
    kind, least = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info.min
    limits = {"gt": 0.0} if least is None else {"ge": float(least)}
    found = (
        suggest_choices(known, typed)
        if known
        else [one for one in suggest_values(kind, limits, typed) if one is not None]
    )
    if found:
        fix = f"did you mean {' or '.join(f'{name} {shell_quote(format_typed(value))}' for value in found)}?"
    elif known:
        fix = f"choose one of {', '.join(f'{name} {choice}' for choice in known)}"
    else:
        fix = f"write {name} {parameter.metavar or 'VALUE'}, or leave it out"
    return SftError(where=f"{name} {typed}".strip(), problem=_sentence(message), fix=fix)


def _sentence(message: str) -> str:
    """A message of Typer as the middle of a sentence."""
    text = message.strip().removesuffix(".").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
