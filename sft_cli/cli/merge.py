"""``sft merge``: merge a run's adapter into its base model."""

from typing import Annotated, Literal

import typer

from sft_cli.cli.options import ConfigDirs, Out, Run, RunOverrides, Step, above_zero
from sft_cli.utils.home import expand_home


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
    combine: Annotated[
        Literal["linear", "svd", "ties", "dare"] | None,
        typer.Option("--combine", help="Combine the LoRA adapters of several runs of one base into one adapter."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="W,W", help="Weight of each run, for --combine; by default equal shares."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            metavar="SHARE",
            min=0.001,
            max=1.0,
            help="Share of each update that --combine ties or dare keeps; by default 0.5.",
        ),
    ] = None,
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Merge a run's adapter into its base model, and check that the answers stay the same.

    Without --out, the model is written to RUN/merged.

    With --combine, several runs are named, and the result is an adapter in RUN/combined, of the first run.

    Example: sft merge runs/quickstart-20250101-120000 --out merged, or with --step 50 for a saved step
    """
    from sft_cli.merge.checks import (
        check_combine_options,
        check_mergeable,
        combination_weights,
        merge_config,
        split_runs,
    )
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    others, keys = split_runs(overrides or [])
    check_combine_options(combine, others, weights, density, step, into)
    if combine is not None:
        runs = [open_run_at_step(one, None, "sft merge") for one in (run, *others)]
        shares = combination_weights(weights, len(runs))
        configs = [merge_config(one, keys, config_dir or []) for one in runs]
        place = runs[0].path / "combined" if out is None else expand_home(out)
        for one, config in zip(runs, configs, strict=True):
            check_mergeable(one, config, into, place)
        from sft_cli.merge.combine import Combination, combine_adapters

        combine_adapters(Combination(runs, configs, shares, combine, density or 0.5), place, max_kl)
        return
    directory = open_run_at_step(run, step, "sft merge")
    config = merge_config(directory, keys, config_dir or [])
    place = directory.path / "merged" if out is None else expand_home(out)
    check_mergeable(directory, config, into, place)
    from sft_cli.merge.merge import merge_adapter

    merge_adapter(directory, config, out=place, into=into, max_kl=max_kl)
