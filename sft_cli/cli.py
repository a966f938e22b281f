"""The commands. Each body calls one function, imported when it runs: ``sft --help`` loads no torch and no Hydra."""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sft_cli import __version__
from sft_cli.console import recorded, say, status
from sft_cli.errors import SftError
from sft_cli.ranks.place import refuse_several
from sft_cli.telling import told

app = typer.Typer(
    help="Fine-tune language models from recipes. Begin with: sft train recipe=quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SLOW = ("prepare", "train", "check", "doctor", "sweep", "eval", "merge", "inspect")
"""Commands whose first line takes a moment."""
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="What to choose and set: recipe=alpaca_lora quant=nf4 trainer.lr=1e-4. `sft show --keys` lists every key.",
        show_default=False,
    ),
]
ConfigDirs = Annotated[
    list[str] | None,
    typer.Option(
        "-d",
        "--config-dir",
        metavar="DIR",
        help="A directory with recipes of your own, or with folders of options (data/, trainer/). Repeatable.",
        show_default=False,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in (None, "train", "doctor"):
        refuse_several(context.invoked_subcommand)
    if context.invoked_subcommand in SLOW and not {"-h", "--help"} & set(sys.argv):
        status(f"sft {context.invoked_subcommand}: reading the settings")


@app.command()
def show(
    overrides: Overrides = None,
    config_dir: ConfigDirs = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every key with type, limits, default and meaning.")
    ] = False,
) -> None:
    """Print the config a command would run with, and where each value came from.

    Example: sft show recipe=quickstart trainer.lr=1e-3
    """
    from sft_cli.config import explain

    if keys and overrides:
        raise typer.BadParameter("--keys lists the keys of every config; give it no KEY=VALUE")
    typer.echo(explain.keys() if keys else explain.show(overrides or [], config_dir or []))


@app.command()
def recipes(config_dir: ConfigDirs = None) -> None:
    """List the recipes: the package's, those of ./recipes and of -d DIR.

    Example: sft recipes -d my_recipes
    """
    from sft_cli.config import explain

    say(explain.recipes(config_dir or []))


@app.command()
def prepare(
    overrides: Overrides = None,
    config_dir: ConfigDirs = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Only say which stages would run again, and what changed.")
    ] = False,
) -> None:
    """Turn rows into tokens with a proven mask, without training.

    Example: sft prepare data=local data.mix.local.path=rows.jsonl model.tokenizer=Qwen/Qwen2.5-0.5B
    """
    from sft_cli.data.prepare import prepare_command

    prepare_command(overrides or [], config_dir or [], explain)


@app.command()
def formats() -> None:
    """Print the shapes of rows that are understood, each with an example."""
    from sft_cli.data.formats import describe

    say(describe())


@app.command()
def inspect(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="prepared=DIR, then one of row=PLACE|NUMBER, where=PART of a place, text=REGEX,"
            " worst=truncated|lowest_share|longest|shortest|random; source=NAME, n=3, split=train|validation.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Marks instead of colours.")] = False,
) -> None:
    """Print rows of prepared data as tokens, coloured by loss, each with its line of the ledger.

    Example: sft inspect prepared=prepared worst=longest n=1
    """
    from sft_cli.report.inspect import inspect_command

    inspect_command(words or [], plain)


@app.command()
def train(overrides: Overrides = None, config_dir: ConfigDirs = None) -> None:
    """Fine-tune a model, or resume a run that was interrupted.

    Example: sft train recipe=quickstart, or sft train run=runs/quickstart-20250101-120000
    """
    from sft_cli.train.run import train_command

    train_command(overrides or [], config_dir or [])


@app.command()
def check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="The words of sft train; then gpu=24GB or gpu=h100, rows=500 or rows=all, and for time and cost"
            " tokens_per_second=N or like=RUN, and price=N (per GPU hour).",
            show_default=False,
        ),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Try a run before paying for it: data, masks, a step of a small model, memory, disk, time. No weights, no GPU.

    Example: sft check recipe=alpaca_qlora gpu=24GB price=2
    """
    from sft_cli.check.command import check_command

    raise typer.Exit(check_command(words or [], config_dir or []))


@app.command()
def doctor() -> None:
    """Look at this machine alone: versions, CUDA, four-bit weights, processes, memory, disk, SLURM.

    Example: sft doctor
    """
    from sft_cli.check.doctor import doctor_command

    raise typer.Exit(doctor_command())


@app.command()
def sweep(overrides: Overrides = None, config_dir: ConfigDirs = None) -> None:
    """Train once for each combination of values, here or as a SLURM array, and rank the results.

    Example: sft sweep recipe=quickstart trainer.lr=1e-3,2e-3 adapter.rank=8,16 parallel=2
    """
    from sft_cli.sweep.command import sweep_command

    sweep_command(overrides or [], config_dir or [])


@app.command("eval")
def evaluate(overrides: Overrides = None, config_dir: ConfigDirs = None) -> None:
    """Measure a run on held-out rows: loss, answers, exact match.

    Example: sft eval run=runs/quickstart-20250101-120000 compare=base, or with step=50 for a saved step
    """
    from sft_cli.eval.run import eval_command
    from sft_cli.train.at_step import at_step

    eval_command(at_step(overrides or []), config_dir or [])


@app.command()
def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="run=DIR, then step=N for a saved step, prompt=TEXT for one answer, system=TEXT,"
            " eval.max_new_tokens=256.",
            show_default=False,
        ),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Talk to a run's model, or ask it one question.

    Example: sft chat run=runs/quickstart-20250101-120000 prompt="What is the capital of Peru?"
    """
    from contextlib import redirect_stdout

    from sft_cli.eval.chat import chat_command
    from sft_cli.train.at_step import at_step

    with redirect_stdout(sys.stderr):  # what is printed is the answer
        words = at_step(words or [])
    chat_command(words, config_dir or [])


@app.command()
def merge(overrides: Overrides = None, config_dir: ConfigDirs = None) -> None:
    """Merge a run's adapter into its base model, and check that the answers stay the same.

    Example: sft merge run=runs/quickstart-20250101-120000 out=merged, or with step=50 for a saved step
    """
    from sft_cli.model.merge.command import merge_command
    from sft_cli.train.at_step import at_step

    merge_command(at_step(overrides or []), config_dir or [])


OPTIONS = {"--help", "--version", "--config-dir", "--keys", "--plain", "--explain"}


def refuse_flags(words: Sequence[str]) -> None:
    """Tell who types ``--lr 3``, as other tools want it, how it is set here."""
    unknown = [
        word.partition("=")[0] for word in words if word.startswith("--") and word.partition("=")[0] not in OPTIONS
    ]
    if unknown:
        from sft_cli.config.names import advice

        name = unknown[0].removeprefix("--").replace("-", "_")
        raise SftError(
            where="command line",
            problem=f"there is no option {unknown[0]}; settings are words KEY=VALUE without dashes",
            fix=advice(name),
        )


def main() -> None:
    """Entry point: a user's mistake is a sentence with its fix and exit code 2, never a traceback."""
    # Threads that wait must sleep: on 2 cores with another process on one of them, spinning ones took 38 s for 50 steps
    # of the quickstart, sleeping ones 7 s. On an idle machine it is 5 s instead of 3; OMP_WAIT_POLICY=ACTIVE has that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with recorded(shlex.join(["sft", *sys.argv[1:]]), _without_secrets), told():
        refuse_flags(sys.argv[1:])
        app()


def _without_secrets(text: str) -> str:
    """The text as it may be kept."""
    from sft_cli.config.secrets import hushed

    return hushed(text)
