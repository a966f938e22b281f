"""The commands. Each body calls one function, imported when it runs: ``sft --help`` loads no torch and no Hydra."""

import os
import shlex
import sys
from typing import Annotated, Any

import typer

from sft_cli import __version__
from sft_cli.console import recorded, say, status
from sft_cli.distributed.rank_env import refuse_several
from sft_cli.telling import told
from sft_cli.usage import refuse

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
        help="Choices and settings: recipe=alpaca_lora quant=nf4 trainer.lr=1e-4. `sft show --keys` lists every group"
        " with its options and every key; `sft show --keys lr` those that match.",
        show_default=False,
    ),
]


def _own(text: str, metavar: str = "KEY=VALUE") -> Any:
    """The words of a command that has some of its own beside the keys."""
    return typer.Argument(metavar=metavar, help=text, show_default=False)


TrainWords = Annotated[
    list[str] | None,
    _own(
        "run=DIR resumes a run, with its own settings. Otherwise what to choose and set for a new one: recipe=NAME or"
        " recipe=FILE.yaml, data=FILE, model=DIR_OR_HUB_ID, adapter=NAME, quant=NAME, and any key (sft show --keys);"
        " run_dir=DIR names where it is written.",
    ),
]
SweepWords = Annotated[
    list[str] | None,
    _own(
        "The words of sft train, at least one with several values: trainer.lr=1e-4,2e-4 or trainer.seed=range(1,4). Of"
        " the sweep itself: parallel=N (runs at a time), metric=NAME and mode=min or max (what ranks them),"
        " sweep_dir=DIR (where it is written), sweep=DIR (continue one).",
    ),
]
EvalWords = Annotated[
    list[str] | None,
    _own(
        "run=DIR, the run to evaluate, on the rows that it held out. step=N: a saved step of it. compare=base: the base"
        " model, too. data=FILE: every row of a file, instead of the held-out rows. Also eval.generate, eval.max_rows,"
        " eval.max_new_tokens, eval.batch_size, trainer.device.",
    ),
]
MergeWords = Annotated[
    list[str] | None,
    _own(
        "run=DIR, the run to merge. step=N: a saved step of it. out=DIR: where the model is written, left out"
        " DIR/merged. into=original or dequantized: the base that the adapter is added to. max_kl=NATS: the largest"
        " divergence from the adapter that is accepted.",
    ),
]
RecipeNames = Annotated[list[str] | None, _own("Recipes to print in full; without a name, all are listed.", "NAME")]
ShowWords = Annotated[list[str] | None, _own("The words of sft train; with --keys, parts of the names of keys.")]
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
    overrides: ShowWords = None,
    config_dir: ConfigDirs = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List groups, options and keys: type, limits, default, meaning.")
    ] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only values that are not the default.")] = False,
) -> None:
    """Print the config a command would run with, and where each value came from.

    Example: sft show recipe=quickstart trainer.lr=1e-3 --changed, or sft show --keys warmup
    """
    from sft_cli.config import explain

    if keys:
        typer.echo(explain.keys(overrides or []))
    else:
        typer.echo(explain.show(overrides or [], config_dir or [], changed=changed))


@app.command()
def recipes(names: RecipeNames = None, config_dir: ConfigDirs = None) -> None:
    """List the recipes: the package's, those of ./recipes and of -d DIR.

    Example: sft recipes alpaca_qlora
    """
    from sft_cli.config import explain

    say(explain.recipes(names or [], config_dir or []))


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
    from sft_cli.prepare.prepare import prepare_command

    prepare_command(overrides or [], config_dir or [], explain)


@app.command()
def formats() -> None:
    """Print the shapes of rows that are understood, each with an example."""
    from sft_cli.data.formats.listing import describe

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
    """Print rows of prepared data as tokens, coloured by loss, with their entry in the ledger.

    Example: sft inspect prepared=prepared worst=longest n=1
    """
    from sft_cli.report.inspect import inspect_command

    inspect_command(words or [], plain)


@app.command()
def train(overrides: TrainWords = None, config_dir: ConfigDirs = None) -> None:
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
    """Check this machine: versions, CUDA, four-bit weights, processes, memory, disk, SLURM.

    Example: sft doctor
    """
    from sft_cli.check.doctor import doctor_command

    raise typer.Exit(doctor_command())


@app.command()
def sweep(overrides: SweepWords = None, config_dir: ConfigDirs = None) -> None:
    """Train once for each combination of values, here or as a SLURM array, and rank the results.

    Example: sft sweep recipe=quickstart trainer.lr=1e-3,2e-3 adapter.rank=8,16 parallel=2
    """
    from sft_cli.sweep.command import sweep_command

    sweep_command(overrides or [], config_dir or [])


@app.command("eval")
def evaluate(overrides: EvalWords = None, config_dir: ConfigDirs = None) -> None:
    """Measure a run on held-out rows: loss, answers, exact match.

    Example: sft eval run=runs/quickstart-20250101-120000 compare=base, or with step=50 for a saved step
    """
    from sft_cli.eval.run import eval_command
    from sft_cli.train.checkpoints.saved_step import at_step

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
    from sft_cli.train.checkpoints.saved_step import at_step

    with redirect_stdout(sys.stderr):  # what is printed is the answer
        words = at_step(words or [])
    chat_command(words, config_dir or [])


@app.command()
def merge(overrides: MergeWords = None, config_dir: ConfigDirs = None) -> None:
    """Merge a run's adapter into its base model, and check that the answers stay the same.

    Example: sft merge run=runs/quickstart-20250101-120000 out=merged, or with step=50 for a saved step
    """
    from sft_cli.merge.command import merge_command
    from sft_cli.train.checkpoints.saved_step import at_step

    merge_command(at_step(overrides or []), config_dir or [])


def main() -> None:
    """Entry point: a user's mistake is a sentence with its fix and exit code 2, never a traceback."""
    # Threads that wait must sleep: on 2 cores with another process on one of them, spinning ones took 38 s for 50 steps
    # of the quickstart, sleeping ones 7 s. On an idle machine it is 5 s instead of 3; OMP_WAIT_POLICY=ACTIVE has that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with recorded(shlex.join(["sft", *sys.argv[1:]]), _without_secrets), told():
        refuse(sys.argv[1:])
        app()


def _without_secrets(text: str) -> str:
    """The text as it may be kept."""
    from sft_cli.config.redaction import hushed

    return hushed(text)
