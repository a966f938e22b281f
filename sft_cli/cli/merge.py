"""``sft merge``: merge a run's adapter into its base model."""

from typing import Annotated, Literal

import typer

from sft_cli.cli.options import ConfigDirs, Out, Run, RunOverrides, Step, above_zero


def merge(
    run: Run,
    overrides: RunOverrides = None,
    out: Out = None,
    into: Annotated[
        Literal["original", "dequantized"],
        typer.Option("--into", help="Base weights to merge into: as published, or as quantized for training."),
    ] = "original",
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            metavar="NATS",
            callback=above_zero,
            help="Largest accepted divergence from the adapter.",
        ),
    ] = None,
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Merge a run's adapter into its base model, and check that the answers stay the same.

    Without --out, the model is written to RUN/merged.

    Example: sft merge runs/quickstart-20250101-120000 --out merged, or with --step 50 for a saved step
    """
    from sft_cli.merge.checks import check_mergeable, merge_config
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    directory = open_run_at_step(run, step, "sft merge")
    config = merge_config(directory, overrides or [], config_dir or [])
    place = directory.path / "merged" if out is None else out.expanduser()
    check_mergeable(directory, config, into, place)
    from sft_cli.merge.merge import merge_adapter

    merge_adapter(directory, config, out=place, into=into, max_kl=max_kl)
