"""``sft chat``: a conversation with a model."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.loading import slow_imports
from sft_cli.cli.options import ConfigDirs, RunOverrides, Step, above_zero
from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory; or a directory that sft merge or sft export wrote; or a Hugging Face id.",
        show_default=False,
        autocompletion=complete_run,
    ),
]


def chat(
    run: Model,
    overrides: RunOverrides = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="One question; by default, messages are read line by line."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="The system message, instead of the run's own.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", metavar="T", help="Sample the answers; by default, they are greedy.", callback=above_zero
        ),
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", metavar="P", help="Sample from the likeliest tokens with this probability.", min=0, max=1
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of sampled answers.", min=0)] = 0,
    tools: Annotated[
        Path | None, typer.Option("--tools", metavar="FILE", help="JSON list of the tools that the model is shown.")
    ] = None,
    compare: Annotated[
        Literal["base"] | None,
        typer.Option("--compare", metavar="base", help="Also print the answers of the base model."),
    ] = None,
    suggest: Annotated[
        int | None,
        typer.Option(
            "--suggest", metavar="N", help="Propose N next questions, by a model trained on user turns.", min=1, max=20
        ),
    ] = None,
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Talk to a run's model, to a merged or exported one, or to one of the Hugging Face hub.

    Only the answers go to standard output. In a terminal, /help lists commands such as /retry, /tokens and /save.

    Config keys that can be set: eval.max_new_tokens, trainer.device, trainer.dtype; template for a model without one.

    Example: sft chat runs/quickstart-20250101-120000 --prompt "What is the capital of Peru?"
    """
    from sft_cli.eval.bare_model import find_bare_model
    from sft_cli.eval.chat.session import ChatOptions
    from sft_cli.eval.chat.target import open_target
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    if temperature is None and top_p < 1:
        raise SftError(where="--top-p", problem="greedy answers do not use it", fix="add --temperature 1")
    schemas = _read_tools(tools) if tools is not None else []
    with redirect_stdout(sys.stderr):
        bare = find_bare_model(run, None) if step is None else None
        source = open_run_at_step(run, step, "sft chat") if bare is None else bare
        target = open_target(run, source, overrides or [], config_dir or [])
    if compare is not None and not target.has_base:
        problem = "only a run, a saved step of one or an adapter is compared with its base"
        fix = "remove --compare, or talk to the run: sft chat RUN --compare base"
        raise SftError(where="--compare", problem=problem, fix=fix)
    with slow_imports():
        from sft_cli.eval.chat.converse import converse
        from sft_cli.eval.chat.model import ChatModel, ChatSampling
        from sft_cli.eval.engine.sampling import Sampling

    drawing = ChatSampling(Sampling(temperature, top_p) if temperature is not None else None, seed)
    options = ChatOptions(
        (target.config.data.system if system is None else system) or "",
        schemas,
        compare is not None,
        suggest or 0,
        temperature or 0.0,
    )
    converse(ChatModel(target, drawing, schemas), target, options, prompt)


def _read_tools(file: Path) -> list[dict[str, Any]]:
    """Return the tools of a JSON file.

    Raises:
        SftError: The file cannot be read, or is no list of tools.
    """
    fix = 'write a JSON list: [{"type": "function", "function": {"name": "…", "parameters": {…}}}]'
    try:
        tools = json.loads(expand_home(file).read_text(encoding="utf-8"))
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise SftError(where=f"--tools {file}", problem=problem, fix=fix) from error
    except ValueError as error:
        raise SftError(where=f"--tools {file}", problem=f"it is not JSON: {error}", fix=fix) from error
    named = isinstance(tools, list) and all(isinstance(tool, dict) and _has_name(tool) for tool in tools)
    if not named or not tools:
        raise SftError(where=f"--tools {file}", problem="it is no list of tools with names", fix=fix)
    return tools


def _has_name(tool: dict[str, Any]) -> bool:
    """Return whether a tool has a name, in its function or at its top."""
    function = tool.get("function", tool)
    return isinstance(function, dict) and isinstance(function.get("name"), str)
