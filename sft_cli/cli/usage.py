"""Find mistakes in a command line before the command runs: unknown commands, unknown and foreign options.

The valid commands and options come from Typer.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_cli.cli.command_line import Command, Part
from sft_cli.cli.elsewhere import COMMANDS, FLAGS, NOT_HERE, RENAMED, SHORT
from sft_cli.errors import SftError, raise_all
from sft_cli.utils.similar import closest_name

WHERE = "command line"
HELP = ("-h", "--help")
_VALUES = {"recipe": "NAME", "data": "FILE", "model": "DIR_OR_HUB_ID"}
"""Placeholder for the value of a group that was typed without one."""
_EVERYDAY = ("n", "row", "text", "source", "split", "prompt", "system", "resume")
"""Options whose names are more often keys of other tools."""


def refuse(commands: Any, words: Sequence[str]) -> None:
    """Check that the command, its options and its arguments exist.

    Args:
        commands: Typer's group of commands.
        words: The command line without the program's name.

    Raises:
        SftError: An unknown command, every unknown option and old spelling, or a missing argument.
    """
    if words[:1] and words[0] in HELP and words[1:2] and words[1] in commands.commands:
        problem = f"{words[0]} comes after the command"
        raise SftError(where=WHERE, problem=problem, fix=f"type sft {words[1]} --help")
    if not words or words[0] in {*HELP, *(spelling for option in commands.params for spelling in option.opts)}:
        return
    if words[0] not in commands.commands:
        raise _unknown_command(list(commands.commands), words[0], words[1:])
    if words[1:2] == ["help"] and not Path("help").exists():
        problem = "help is an option, not a word"
        raise SftError(where=WHERE, problem=problem, fix=f"type sft {words[0]} --help")
    command = Command(words[0], commands.commands[words[0]].params)
    if any(word in HELP for word in words[1:]):
        return
    parts = command.parts(words[1:])
    wrong = [part for part in parts if _is_wrong(command, part)]
    if wrong and all(_rewritten(command, part) for part in wrong):
        raise _corrected_line(command, parts, wrong)
    others = [Command(name, other.params) for name, other in commands.commands.items() if name != command.name]
    errors = [_unknown_option(command, parts, part) for part in wrong]
    raise_all(errors + [error for part in parts if (error := _of_another(command, others, part)) is not None])
    raise_all([_with_value(command, parts, part) for part in parts if _has_foreign_value(part)])
    raise_all([_without_value(command, parts, part) for part in parts if _lacks_value(part)])
    _refuse_arguments(command, parts)


def _is_wrong(command: Command, part: Part) -> bool:
    """Return whether a part is an unknown option, or a word that should be an option or argument."""
    if part.is_option:
        return part.option is None
    renamed = command.spelled(part.name) is not None or (command.name, part.name) in RENAMED
    return part.is_setting and not _is_key(command, part.name) and renamed


def _is_key(command: Command, name: str) -> bool:
    """Return whether the command takes a config key or group of this name."""
    from sft_cli.config.files.search_path import GROUPS

    if not command.takes_keys:
        return False
    if name in (*GROUPS, "recipe"):
        return True
    from sft_cli.config.keys.valid_keys import find_key  # imported only for a mistake, since it is slow

    return command.spelled(name) is not None and find_key(name) is not None


def _rewritten(command: Command, part: Part) -> list[str]:
    """Return the correct words for a wrong part; an empty list if they are unknown."""
    name = part.name.lstrip("-")
    if part.is_option and not part.name.startswith("--"):
        name = SHORT.get(name, name)
        if name == "recipe" and part.value.replace(".", "").isdigit():
            return []  # -r 8 is the rank of other tools
    if (command.name, name) == ("train", "run") and part.value and not _names_a_run(part.value):
        return [f"run_dir={part.value}"]
    if (spelling := command.spelled(name)) is not None:
        if not spelling.startswith("-"):
            return [part.value or spelling]
        option = command.options[spelling]
        return [spelling] if option.is_flag else [spelling, part.value or option.metavar or "VALUE"]
    if not command.takes_keys or not (part.is_option or (command.name, name) in RENAMED):
        return []
    from sft_cli.config.files.search_path import GROUPS
    from sft_cli.config.keys.valid_keys import find_key

    name = RENAMED.get((command.name, name), name)
    known = next((key for key in (name, name.replace("-", "_")) if key in ("recipe", *GROUPS) or find_key(key)), None)
    return [f"{known}={part.value or _VALUES.get(known, 'VALUE')}"] if known else []


def _corrected_line(command: Command, parts: Sequence[Part], wrong: Sequence[Part]) -> SftError:
    """Return the error where every wrong part has one correct spelling; the fix is the whole line."""
    from sft_cli.config.keys.typos import shell_quote

    first, words = list[str](), list[str]()
    for part in parts:
        if part not in wrong:
            words += part.words
        elif len(new := _rewritten(command, part)) == 1 and not new[0].startswith("-") and "=" not in new[0]:
            first += new  # arguments come first
        else:
            words += new
    typed = " ".join(map(shell_quote, [command.name, *first, *words]))
    return SftError(where=WHERE, problem=_problem(command, wrong), fix=f"type sft {typed}")


def _problem(command: Command, wrong: Sequence[Part]) -> str:
    """Return the description of wrong parts of a command line."""
    options = [part.name for part in wrong if part.is_option]
    words = [f"{part.name}=" for part in wrong if not part.is_option]
    no_keys = f"{' and '.join(words)} {'is not a config key' if len(words) == 1 else 'are not config keys'}"
    no_options = f"there is no option {', '.join(options)}"
    if command.takes_keys:
        no_options += "; config keys are words KEY=VALUE without dashes"
    else:
        no_keys = f"sft {command.name} takes no words KEY=VALUE, such as {words[0] if words else ''}"
    return "; ".join([no_keys] * bool(words) + [no_options] * bool(options))


def _unknown_command(commands: Sequence[str], command: str, following: Sequence[str]) -> SftError:
    """Return the error for an unknown command."""
    from sft_cli.config.keys.translate import DATA_FILE  # imported only for a mistake, since it is slow

    problem, typed = f"there is no command {command!r}", shlex.join(following)
    if command in ("help", "version"):
        topic = following[0] if following and following[0] in commands else ""
        fix = "sft --version" if command == "version" else f"sft {topic} --help".replace("  ", " ")
    elif command in NOT_HERE:
        fix = NOT_HERE[command]
    elif meant := COMMANDS.get(command.lower()) or closest_name(command.lower(), commands):
        fix = f"did you mean: {f'sft {meant} {typed}'.strip()}"
    elif "=" in command or DATA_FILE.fullmatch(command) or command.endswith((".yaml", ".yml")):
        problem, fix = (
            f"{command!r} is not a command",
            f"name the command first: sft train {shlex.join([command, *following])}",
        )
    elif command.startswith("-"):
        problem, fix = (
            f"there is no option {command}",
            f"remove {command}, or write it after a command; sft --help lists the commands",
        )
    else:
        fix = f"the commands are {', '.join(commands)}; sft --help describes them"
    return SftError(where=WHERE, problem=problem, fix=fix)


def _unknown_option(command: Command, parts: Sequence[Part], part: Part) -> SftError:
    """Return the error for one wrong part; the fix is its correct spelling with its value."""
    from sft_cli.config.keys.translate import translate_by_value
    from sft_cli.config.keys.typos import shell_quote
    from sft_cli.config.keys.valid_keys import suggest_key

    key, value = part.name.lstrip("-").replace("-", "_"), _read(part.value)
    if new := _rewritten(command, part):
        fix = f"write {' '.join(map(shell_quote, new))}"
    elif part.name in FLAGS:
        words = [word for other in parts if other is not part for word in other.words]
        fix = f"to try a run without training: {shlex.join(['sft', FLAGS[part.name], *words])}"
    elif part.name in ("--version", "-v", "-V"):
        fix = "sft --version"
    elif command.takes_keys and (answer := translate_by_value(key, value, "local")) is not None:
        fix = answer
    elif part.name.startswith("--") and (similar := closest_name(part.name, list(command.options))):
        fix = f"did you mean {similar}?"
    elif not command.takes_keys:
        fix = f"remove it; sft {command.name} --help lists the options"
    else:
        fix = suggest_key(key, value)
    return SftError(where=WHERE, problem=_problem(command, [part]), fix=fix)


def _of_another(command: Command, others: Sequence[Command], part: Part) -> SftError | None:
    """Return the error for ``gpu=24GB`` if another command has that option; None for any other part."""
    name = part.name
    if not part.is_setting or not command.takes_keys or name in _EVERYDAY or _is_key(command, name):
        return None
    with_it = [other for other in others if other.takes_keys and name in other.names]
    if not with_it:
        return None
    commands = " and ".join(f"sft {other.name}" for other in with_it)
    fix = f"remove it: it is an option of {commands}, see sft {with_it[0].name} --help"
    return SftError(where=WHERE, problem=_problem(command, [part]), fix=fix)


def _lacks_value(part: Part) -> bool:
    """Return whether a part is an option without its value; only a system message may be empty."""
    return part.option is not None and not part.option.is_flag and not part.value and part.option.name != "system"


def _has_foreign_value(part: Part) -> bool:
    """Return whether a part is a flag with a value: ``--keys=lr``."""
    return part.option is not None and part.option.is_flag and "=" in part.words[0]


def _with_value(command: Command, parts: Sequence[Part], part: Part) -> SftError:
    """Return the error for a flag with a value; the fix is the whole line with both apart, or with the flag alone."""
    if part.value.lower() in ("false", "0", "no", "off"):
        own = []
    elif part.value.lower() in ("", "true", "1", "yes", "on") or not (command.takes_keys or command.free is not None):
        own = [part.name]
    else:
        own = [part.name, part.value]
    words = [word for other in parts for word in (own if other is part else other.words)]
    typed = " ".join(map(shlex.quote, ["sft", command.name, *words]))
    return SftError(where=part.name, problem="the option takes no value after =", fix=f"type {typed}")


def _without_value(command: Command, parts: Sequence[Part], part: Part) -> SftError:
    """Return the error for an option without its value; a path elsewhere in the line may be the value."""
    paths = [other.words[0] for other in parts if not other.is_option and Path(other.words[0]).exists()]
    if len(paths) == 1 and len(part.words) == 1 and part.option.metavar in ("RUN", "DIR") and not command.required:
        words = [word for other in parts if other.words[0] != paths[0] for word in other.words]
        words.insert(words.index(part.words[0]) + 1, paths[0])
        fix = f"type {' '.join(map(shlex.quote, ['sft', command.name, *words]))}"
    else:
        fix = f"write {part.name} {part.option.metavar or 'VALUE'}, or remove it"
    return SftError(where=part.name, problem="the option has no value", fix=fix)


def _is_override(word: str) -> bool:
    """Return whether a word sets a key, and is no file; a line of another tool's arguments has spaces before its =."""
    key, equals, _ = word.partition("=")
    return bool(equals) and " " not in key and not Path(word).exists()


def _refuse_arguments(command: Command, parts: Sequence[Part]) -> None:
    """Refuse a line that does not start with its required arguments, or has too many words."""
    words = [part.words[0] for part in parts if not part.is_option]
    if command.required and (not words or _is_override(words[0])):
        raise _missing(command, parts)
    if command.free is None and len(words) > len(command.single):
        extra = words[len(command.single)]
        kept = " ".join(["sft", command.name, *map(shlex.quote, words[: len(command.single)])])
        raise SftError(where=extra, problem=f"{kept} takes no further words", fix=f"remove it: {kept}")


def _missing(command: Command, parts: Sequence[Part]) -> SftError:
    """Return the error for a missing first argument; the fix is the same line with it.

    A word of the line may name the run.
    """
    from sft_cli.config.keys.typos import shell_quote
    from sft_cli.run_dir import latest_runs

    where, argument = f"sft {command.name}", command.required[0]
    if argument.metavar != "RUN":
        return SftError(where=where, problem=f"no {argument.metavar} is named", fix=f"{where} {argument.metavar}")
    naming = [
        part for part in parts if not part.is_option and _names_a_run(part.value if part.is_setting else part.name)
    ]
    named = naming[0] if naming else None
    path = next(iter(latest_runs()), "RUN") if named is None else named.value if named.is_setting else named.name
    typed = [word for part in parts if part is not named for word in part.words]
    also = ", the newest run" if named is None and path != "RUN" else ""
    return SftError(
        where=where, problem="no run is named", fix=f"{' '.join([where, *map(shell_quote, [path, *typed])])}{also}"
    )


def _names_a_run(text: str) -> bool:
    """Return whether a text is the path of a run directory."""
    return text != "" and (Path(text) / "config.yaml").is_file()


def _read(text: str) -> object:
    """Return a value as a number or boolean if it is one, else as text; true for an option without a value."""
    if not text:
        return True
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
