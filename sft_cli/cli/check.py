"""``sft check``: check a run without its weights and without a GPU."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sft_cli.cli.completion import complete_gpu, complete_run
from sft_cli.cli.loading import slow_imports
from sft_cli.cli.options import ConfigDirs, Overrides, above_zero

if TYPE_CHECKING:
    from sft_cli.check.options import CheckOptions


def check(
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME|SIZE",
            autocompletion=complete_gpu,
            help="GPU that the run must fit into: h100, a10g, 24GB.",
        ),
    ] = None,
    rows: Annotated[str, typer.Option("--rows", metavar="N|all", help="Rows of each source to check.")] = "500",
    price: Annotated[
        float | None,
        typer.Option(
            "--price", metavar="N", callback=above_zero, help="Price of a GPU hour, to print the cost of the run."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="RUN", autocompletion=complete_run, help="An earlier run whose speed is used."),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second",
            metavar="N",
            callback=above_zero,
            help="Speed of the whole job, if known.",
        ),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Check a run before it starts: data, masks, a step of a small model, memory, disk, time. No weights, no GPU.

    The exit code is 1 if any check failed.

    Example: sft check recipe=alpaca_qlora --gpu 24GB --price 2
    """
    from sft_cli.check.gpus import parse_gpu
    from sft_cli.check.options import CheckOptions, row_limit

    options = CheckOptions(parse_gpu(gpu) if gpu else None, row_limit(rows), tokens_per_second, price, like)
    raise typer.Exit(_run_checks(overrides or [], config_dir or [], options))


def _run_checks(overrides: Sequence[str], config_dirs: Sequence[str], options: "CheckOptions") -> int:
    """Run the checks, print a line for each, and return the exit code."""
    from sft_cli.check.data_check import data_result, sample_data
    from sft_cli.check.paths_and_ports import path_checks, temporary_home_if_unwritable
    from sft_cli.check.results import CheckReport, ok, warn
    from sft_cli.config.automatic import resolve_auto
    from sft_cli.config.compose import compose
    from sft_cli.config.paths import absolute
    from sft_cli.config.rules.check import check_required
    from sft_cli.progress import status
    from sft_cli.train.setup.run_warnings import describe_plan, find_run_warnings

    started = time.perf_counter()
    config = compose(overrides, config_dirs)
    check_required(config)
    config = absolute(config)
    report = CheckReport()
    report.add(ok("config", f"{config.run_name}: composed; all keys are known and consistent"))
    places = list(path_checks(config))
    report.add(*places)
    status("check: reading rows")
    with temporary_home_if_unwritable(places), report.section("data"), sample_data(config, options.rows) as sample:
        report.add(data_result(sample))
        examples, composed = sample.examples, config
        config = resolve_auto(config, examples)
        report.add(ok("plan", f"{'' if sample.whole else 'about '}{describe_plan(composed, config, examples)}"))
        held_out = sample.held_out(config)
        for warning in find_run_warnings(config, sample.prepared, examples=examples, held_out=held_out):
            report.add(warn(warning.name, warning.text, warning.fix))
        status("check: loading torch")
        with slow_imports():
            from sft_cli.check.torch_checks.run import run_model_checks
        run_model_checks(report, config, sample, options)
    return report.finish(f"checked in {time.perf_counter() - started:.0f} s", f"sft train {' '.join(overrides)}")
