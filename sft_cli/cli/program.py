"""The program ``sft``: its commands and their execution. ``sft --help`` loads neither torch nor Hydra."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any

import typer

from sft_cli import __version__
from sft_cli.cli.board import board
from sft_cli.cli.chat import chat
from sft_cli.cli.check import check
from sft_cli.cli.command_line import Command
from sft_cli.cli.compare import compare
from sft_cli.cli.completion import VARIABLE, answer_bash
from sft_cli.cli.docs import docs
from sft_cli.cli.doctor import doctor
from sft_cli.cli.eval import evaluate
from sft_cli.cli.export import export
from sft_cli.cli.formats import formats
from sft_cli.cli.import_config import import_config
from sft_cli.cli.inspect import inspect
from sft_cli.cli.interrupts import exit_on_interrupt
from sft_cli.cli.judge import judge
from sft_cli.cli.merge import merge
from sft_cli.cli.prepare import prepare
from sft_cli.cli.recipes import recipes
from sft_cli.cli.runs import runs
from sft_cli.cli.serve import serve
from sft_cli.cli.show import show
from sft_cli.cli.stop import stop
from sft_cli.cli.submit import submit
from sft_cli.cli.sweep import sweep
from sft_cli.cli.synth import synth
from sft_cli.cli.train import train
from sft_cli.cli.typer_errors import as_sft_error
from sft_cli.cli.usage import HELP, refuse
from sft_cli.cli.verify import verify
from sft_cli.cli.waiting_threads import set_waiting
from sft_cli.console import recorded
from sft_cli.distributed.rank_env import require_single_process
from sft_cli.error_boundary import INTERRUPTED, exit_on_error
from sft_cli.progress import status

app = typer.Typer(
    help="Fine-tune language models from recipes. Start with: sft train recipe=quickstart",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
)
SLOW = (
    "prepare",
    "train",
    "check",
    "doctor",
    "sweep",
    "eval",
    "chat",
    "compare",
    "judge",
    "synth",
    "merge",
    "export",
    "verify",
    "serve",
    "inspect",
    "import",
)
"""Commands that take a moment until their first line of output."""
COMPUTING = ("train", "check", "eval", "synth", "chat", "merge", "export", "serve")
"""Commands that compute with a model in their own process; a sweep's runs decide by themselves."""
SEVERAL_PROCESSES = ("train", "eval", "doctor")
"""Commands that a launcher may start in several processes."""

app.command()(train)
app.command()(prepare)
app.command()(check)
app.command()(inspect)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(judge)
app.command()(synth)
app.command()(chat)
app.command()(merge)
app.command()(export)
app.command()(verify)
app.command()(serve)
app.command()(sweep)
app.command()(submit)
app.command()(runs)
app.command()(stop)
app.command()(board)
app.command()(show)
app.command()(recipes)
app.command()(formats)
app.command("import")(import_config)
app.command()(doctor)
app.command()(docs)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@cache
def _commands() -> Any:
    """Return Typer's group of commands; its help shows no Python types for flags, and arguments without braces."""
    group: Any = typer.main.get_command(app)
    for command in (group, *group.commands.values()):
        command.get_help_option = partial(_without_type, command.get_help_option)
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                parameter.get_usage_pieces = partial(_usage_pieces, parameter)
            if parameter.param_type_name == "argument" or parameter.is_flag:
                parameter.display_type_rich = _no_type
    return group


def _without_type(get_help_option: Callable[[Any], Any], ctx: Any) -> Any:
    """Return the option ``--help`` of a command, whose help shows no type."""
    option = get_help_option(ctx)
    if option is not None:
        option.display_type_rich = _no_type
    return option


def _usage_pieces(argument: Any, ctx: Any) -> list[str]:
    """Return an argument as the usage line shows it: ``RUN``, ``[KEY=VALUE]...``."""
    name = argument.metavar if argument.required else f"[{argument.metavar}]"
    return [name if argument.nargs == 1 else f"{name}..."]


def _no_type(ctx: Any) -> None:
    """Return the type that the help shows for a parameter: none."""


def execute(words: Sequence[str]) -> int:
    """Run a command line in this process.

    Args:
        words: The command line without the program's name.

    Returns:
        The exit code.

    Raises:
        SftError: The user made a mistake.
    """
    commands = _commands()
    refuse(commands, words)
    known = words[0] if words and words[0] in commands.commands else None
    if known and known not in SEVERAL_PROCESSES:
        require_single_process(known)
    if known in SLOW and not set(HELP) & set(words):
        status(f"sft {known}: reading the settings")
    try:
        return commands.main(list(words) or ["--help"], prog_name="sft", standalone_mode=False) or 0
    except typer.TyperException as error:
        command = Command(known, commands.commands[known].params) if known else None
        raise as_sft_error(error, command, words[1:]) from error


def main() -> None:
    """Run ``sft``; a user's mistake gives a message with a fix and exit code 2, without a traceback."""
    if VARIABLE in os.environ:
        _complete()
    words = sys.argv[1:]
    with exit_on_interrupt():
        if set(words[:1]) & set(COMPUTING):
            set_waiting(os.environ)
        typed = _without_secrets(shlex.join(["sft", *words]))  # the first call imports the schema of the settings
    with recorded(typed, _without_secrets), exit_on_error():
        code = execute(words)
        if code == INTERRUPTED:  # Typer turns KeyboardInterrupt into this code
            raise KeyboardInterrupt
        sys.exit(code)


def _complete() -> None:
    """Answer a shell that requests completions, and exit."""

    def complete() -> None:
        _commands().main([], prog_name="sft")

    if os.environ[VARIABLE] == "complete_bash":
        answer_bash(complete)
    else:
        complete()


def _without_secrets(text: str) -> str:
    """Return the text with secrets masked."""
    from sft_cli.config.redaction import redact_secrets

    return redact_secrets(text)
