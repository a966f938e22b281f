"""``sft export``: write a run in the form that others use."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.options import ConfigDirs, Out, Run, RunOverrides, Step
from sft_cli.utils.home import expand_home


def export(
    run: Run,
    overrides: RunOverrides = None,
    to: Annotated[
        Literal["merged", "adapter", "gguf", "ollama", "hub"],
        typer.Option(
            "--to", help="A plain model, the adapter alone, a GGUF file, one with an Ollama Modelfile, or the hub."
        ),
    ] = "merged",
    out: Out = None,
    step: Step = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="float32, bfloat16 or float16; for GGUF f32, f16, bf16 or q8_0.",
            show_default=False,
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Largest size of a weight file.")
    ] = "5GB",
    into: Annotated[
        Literal["original", "dequantized"],
        typer.Option("--into", help="Base weights to merge into: as published, or as quantized for training."),
    ] = "original",
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Move the adapter's trained token rows into a copy of the base."),
    ] = False,
    converter: Annotated[
        Path | None,
        typer.Option(
            "--converter",
            metavar="FILE",
            help="llama.cpp's convert_hf_to_gguf.py, for families that are not written here.",
            show_default=False,
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="USER/NAME", help="Repository of the hub, for --to hub.", show_default=False),
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="Upload to it; without, only list what would be uploaded.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Create a public repository; by default it is private.")
    ] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Write a run as a model, an adapter or a GGUF file, and check that it computes the same.

    Without --out, it is written to RUN/export/TARGET.

    Example: sft export runs/quickstart-20250101-120000 --to gguf --dtype q8_0
    """
    from sft_cli.export.request import ExportRequest, check_request
    from sft_cli.merge.checks import merge_config
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    directory = open_run_at_step(run, step, "sft export")
    config = merge_config(directory, overrides or [], config_dir or [], "sft export")
    place = directory.path / "export" / to if out is None else expand_home(out)
    request = ExportRequest(directory, config, to, place, dtype, shard_size, into, portable, converter)
    request = replace(request, repo=repo, push=push, public=public)
    check_request(request)
    from sft_cli.export.export import export_run

    export_run(request)
