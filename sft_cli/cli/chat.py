"""``sft chat``: a conversation with a run's model."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Run, RunOverrides, Step


def chat(
    run: Run,
    overrides: RunOverrides = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="One question; by default, questions are read line by line."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="The system message, instead of the run's own.")
    ] = None,
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Talk to a run's model, or to one that sft merge wrote, or ask it one question.

    Only the answers go to standard output.

    In a terminal, Ctrl-C stops an answer, Ctrl-D ends, /clear starts a new conversation, and /help lists the commands.

    Config keys that can be set: eval.max_new_tokens, trainer.device, trainer.dtype.

    Example: sft chat runs/quickstart-20250101-120000 --prompt "What is the capital of Peru?"
    """
    from sft_cli.eval.chat import chat_config, converse, is_plain_model
    from sft_cli.run_dir import RunDir
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    with redirect_stdout(sys.stderr):
        is_plain = step is None and is_plain_model(Path(run).expanduser().absolute())
        directory = RunDir(Path(run).expanduser()) if is_plain else open_run_at_step(run, step, "sft chat")
    config = chat_config(directory, overrides or [], config_dir or [])
    converse(directory, config, prompt=prompt, system=config.data.system if system is None else system)
