"""Convert Typer's errors into errors with a place, a problem and a fix."""

from collections.abc import Sequence
from typing import Any

import typer

from sft_cli.cli.command_line import Command
from sft_cli.errors import SftError


def as_sft_error(error: typer.TyperException, command: Command | None, words: Sequence[str]) -> SftError:
    """Return the ``SftError`` of an error of Typer.

    Args:
        error: The error of Typer.
        command: The typed command, if it is known.
        words: The words after the command.
    """
    if isinstance(error, typer.BadParameter) and error.param is not None and command is not None:
        return _bad_value(error.message, error.param, command, words)
    name = f"sft {command.name}" if command else "sft"
    return SftError(where=name, problem=_sentence(error.format_message()), fix=f"{name} --help lists its options")


def _bad_value(message: str, parameter: Any, command: Command, words: Sequence[str]) -> SftError:
    """Return the error for an invalid value of an option; the fix is a similar valid value."""
    from sft_cli.config.keys.typos import format_typed, shell_quote, suggest_choices, suggest_values

    if parameter.param_type_name != "option":
        fix = f"sft {command.name} --help lists its arguments"
        return SftError(where=f"sft {command.name}", problem=_sentence(message), fix=fix)
    name = max(parameter.opts, key=len)
    typed = next((part.value for part in command.parts(words) if part.option is parameter), "")
    known = parameter.type_descriptor.choices
    kind, least = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info.min
    limits = {"gt": 0.0} if least is None else {"ge": float(least)}
    suggestions = (
        suggest_choices(known, typed)
        if known
        else [value for value in suggest_values(kind, limits, typed) if value is not None]
    )
    problem = f"it must be {_expected(kind, least)}" if message.startswith("Input should") else _sentence(message)
    if suggestions:
        fix = f"did you mean {' or '.join(f'{name} {shell_quote(format_typed(value))}' for value in suggestions)}?"
    elif known:
        fix = f"choose one of {', '.join(f'{name} {choice}' for choice in known)}"
    else:
        fix = f"write {name} {parameter.metavar or 'VALUE'}, or remove it"
    return SftError(where=f"{name} {typed}".strip(), problem=problem, fix=fix)


def _expected(kind: Any, least: float | None) -> str:
    """Return what the value of an option must be, in words."""
    noun = "a whole number" if kind is int else "a number"
    return f"{noun} of at least {least}" if least is not None else f"{noun} above 0"


def _sentence(message: str) -> str:
    """Return a message of Typer without a capital and a full stop."""
    text = message.strip().removesuffix(".").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
