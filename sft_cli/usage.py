"""What is wrong with a command line before any command reads it: an unknown command, an option that is not there."""

import shlex
from collections.abc import Mapping, Sequence

from sft_cli.config.commands import WORDS
from sft_cli.config.keys.similar import nearest
from sft_cli.errors import SftError, raise_all

ROOT = ("--version", "--help", "-h")
WITH_VALUE = ("-d", "--config-dir")
"""Options that take the next word."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "show": ("--keys", "--changed", "-d", "--config-dir"),
    "recipes": ("-d", "--config-dir"),
    "prepare": ("--explain", "-d", "--config-dir"),
    "formats": (),
    "inspect": ("--plain",),
    "train": ("-d", "--config-dir"),
    "check": ("-d", "--config-dir"),
    "doctor": (),
    "sweep": ("-d", "--config-dir"),
    "eval": ("-d", "--config-dir"),
    "chat": ("-d", "--config-dir"),
    "merge": ("-d", "--config-dir"),
}
"""The commands, each with its options beside --help."""
_SHORT = {
    **dict.fromkeys(("r", "c", "f"), "recipe"),
    "m": "model",
    "o": "out",
    "p": "prompt",
    "n": "n",
    "e": "trainer.epochs",
    "s": "step",
}
"""Options of one letter in other tools -> the word here, where the command has it."""
_SETTING = ("show", "prepare", "train", "check", "sweep", "eval", "chat", "merge")
"""Commands that take settings."""
_VALUES = {"recipe": "NAME", "data": "FILE", "model": "DIR_OR_HUB_ID"}
"""What a word takes that was typed without a value."""
WORDLESS = ("formats", "doctor")
"""Commands that read no words."""
ELSEWHERE = {
    **dict.fromkeys(("finetune", "fine-tune", "ft", "fit", "sft", "run", "start", "resume", "launch"), "train"),
    **dict.fromkeys(("preprocess", "tokenize", "process", "data", "prep", "dataset"), "prepare"),
    **dict.fromkeys(("evaluate", "test", "benchmark", "validate_model", "score"), "eval"),
    **dict.fromkeys(("export", "merge-lora", "merge_lora", "merge-adapter", "save", "convert"), "merge"),
    **dict.fromkeys(("validate", "dry-run", "dryrun", "lint", "verify", "estimate"), "check"),
    **dict.fromkeys(("ls", "list", "recipe", "examples", "cp"), "recipes"),
    **dict.fromkeys(("config", "configs", "keys", "print", "options"), "show"),
    **dict.fromkeys(("view", "debug", "look", "rows", "preview"), "inspect"),
    **dict.fromkeys(("info", "env", "system", "version-info", "diagnose"), "doctor"),
    **dict.fromkeys(("hpo", "grid", "search", "tune", "multirun"), "sweep"),
    **dict.fromkeys(("format", "schema", "shapes"), "formats"),
}
"""Commands of other tools -> the one here."""
_SERVED = (
    "sft chat run=DIR talks to a run's model; sft merge run=DIR out=merged writes a plain transformers model, which"
    " vllm serve merged, or any other program, serves"
)
_NOT_HERE = {
    **dict.fromkeys(("generate", "infer", "inference", "predict", "serve", "ask", "api", "complete"), _SERVED),
    **dict.fromkeys(
        ("push", "upload", "publish"),
        "nothing is uploaded here: sft merge run=DIR out=merged, then hf upload NAME merged",
    ),
    **dict.fromkeys(
        ("submit", "slurm", "sbatch"), "submit a run to SLURM with python -m sft_cli.slurm recipe=NAME launcher=slurm"
    ),
    **dict.fromkeys(("web", "webui", "ui", "board", "gradio"), "there is no web page to train from: sft --help"),
}
_FLAGS = {"--dry-run": "check", "--dryrun": "check", "--validate": "check", "--debug": "check"}
"""Options of other tools that are a command here."""


def refuse(words: Sequence[str]) -> None:
    """Return where the command and its options exist.

    Args:
        words: The command line without the program's name.

    Raises:
        SftError: An unknown command, or every option that the command does not have.
    """
    if not words or words[0] in ROOT:
        return
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise _command(command, rest)
    asked = [word for word in rest if word in ("-h", "--help")]
    unknown = [] if asked else [place for place, word in enumerate(rest) if _is_unknown(command, word)]
    if unknown and all(_dashed(command, rest, place) for place in unknown):
        raise _without_dashes(command, rest, unknown)
    raise_all([_option(command, rest, place) for place in unknown])
    if not asked and rest and rest[-1] in WITH_VALUE:
        problem = "it names no directory"
        raise SftError(where=rest[-1], problem=problem, fix=f"write {rest[-1]} DIR, or leave it out")
    extra = [word for word in rest if not word.startswith("-")] if command in WORDLESS and not asked else []
    raise_all([_extra(command, word) for word in extra])


def _is_unknown(command: str, word: str) -> bool:
    """Whether a word is an option that the command does not have; a negative number is none."""
    name = word.partition("=")[0]
    dashed = word.startswith("-") and len(word) > 1 and not word[1].isdigit()
    glued = any(word.startswith(short) and len(word) > 2 for short in ("-d",)) and not word.startswith("--")
    return dashed and name not in COMMANDS[command] and not (glued and "-d" in COMMANDS[command])


def _command(command: str, rest: Sequence[str]) -> SftError:
    """What to say about a command that is not there."""
    from sft_cli.config.keys.translate import DATA_FILE  # a right command line does not wait for the keys

    where, problem = "command line", f"there is no command {command!r}"
    typed = shlex.join(rest)
    if command in ("help", "version"):
        about = rest[0] if rest and rest[0] in COMMANDS else ""
        fix = "sft --version" if command == "version" else f"sft {about} --help".replace("  ", " ")
    elif command in _NOT_HERE:
        fix = _NOT_HERE[command]
    elif meant := ELSEWHERE.get(command.lower()) or nearest(command.lower(), COMMANDS):
        fix = f"did you mean: {f'sft {meant} {typed}'.strip()}"
    elif "=" in command or DATA_FILE.fullmatch(command) or command.endswith((".yaml", ".yml")):
        problem, fix = f"{command!r} is no command", f"name the command first: sft train {shlex.join([command, *rest])}"
    elif command.startswith("-"):
        problem, fix = f"there is no option {command}", "name the command first; sft --help lists them"
    else:
        fix = f"the commands are {', '.join(COMMANDS)}; sft --help says what they do"
    return SftError(where=where, problem=problem, fix=fix)


def _dashed(command: str, rest: Sequence[str], place: int) -> str | None:
    """The word that an option names exactly, such as ``recipe`` for ``--recipe``; None where it names none."""
    from sft_cli.config.files.search_path import GROUPS
    from sft_cli.config.keys.valid_keys import find

    name = rest[place].partition("=")[0]
    word = name.lstrip("-")
    if not name.startswith("--"):
        word = _SHORT.get(word, word)
        if word == "recipe" and _value(rest, place).replace(".", "").isdigit():
            return None  # -r 8 is the rank of other tools
    if word == "out" and command in ("train", "prepare"):
        word = {"train": "run_dir", "prepare": "prepared_dir"}[command]
    known = [word, word.replace("-", "_")]
    choices = ("recipe", *GROUPS) if command in _SETTING else ()
    found = (one for one in known if one in (*WORDS.get(command, ()), *choices) or (choices and find(one)))
    return next(found, None)


def _value(rest: Sequence[str], place: int) -> str:
    """The value of an option: what stands after its ``=``, or the next word if that is no option or setting."""
    _, equals, value = rest[place].partition("=")
    following = rest[place + 1] if place + 1 < len(rest) else ""
    if not equals and not following.startswith("-") and "=" not in following:
        value = following
    return value


def _without_dashes(command: str, rest: Sequence[str], options: Sequence[int]) -> SftError:
    """What to say where every wrong option is a word of the command: the whole line as it is typed here."""
    words, place = list[str](), 0
    while place < len(rest):
        if place not in options:
            words.append(rest[place])
            place += 1
            continue
        words.append(_typed(command, rest, place))
        place += 1 + bool("=" not in rest[place] and _value(rest, place))
    from sft_cli.config.keys.typos import quoted

    names = ", ".join(rest[place].partition("=")[0] for place in options)
    problem = f"there is no option {names}; settings are words KEY=VALUE without dashes"
    return SftError(where="command line", problem=problem, fix=f"type sft {command} {' '.join(map(quoted, words))}")


def _typed(command: str, rest: Sequence[str], place: int) -> str:
    """The word ``name=value`` that an option stands for."""
    name = str(_dashed(command, rest, place))
    return f"{name}={_value(rest, place) or _VALUES.get(name, 'VALUE')}"


def _option(command: str, rest: Sequence[str], place: int) -> SftError:
    """What to say about an option: how the setting is typed here, with its value."""
    from sft_cli.config.keys.translate import special
    from sft_cli.config.keys.typos import quoted
    from sft_cli.config.keys.valid_keys import advice

    name, value = rest[place].partition("=")[0], _value(rest, place)
    key = name.lstrip("-").replace("-", "_")
    problem = f"there is no option {name}; settings are words KEY=VALUE without dashes"
    if name in _FLAGS:
        words = [word for word in rest if word != rest[place]]
        fix = f"to try a run without training: {shlex.join(['sft', _FLAGS[name], *words])}"
    elif command in WORDLESS:
        fix = f"leave it out: sft {command}"
    elif _dashed(command, rest, place):
        fix = f"write {quoted(_typed(command, rest, place))}"
    elif name in ("--version", "-v", "-V"):
        fix = "sft --version"
    elif (found := special(key, _read(value), "local")) is not None:
        fix = found
    elif name.startswith("--") and (near := nearest(name, COMMANDS[command])):
        fix = f"did you mean {near}?"
    else:
        fix = advice(key, _read(value))
    return SftError(where="command line", problem=problem, fix=fix)


def _read(text: str) -> object:
    """A value as a config would hold it, as far as a number or truth goes; true for an option alone."""
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


def _extra(command: str, word: str) -> SftError:
    """What to say about a word for a command that reads none."""
    return SftError(where=word, problem=f"sft {command} reads no words", fix=f"leave it out: sft {command}")
