"""``sft submit``: submit a training run as a SLURM job."""

from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.console import say


def submit(
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job script and write nothing.")] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Submit a run to SLURM, from the login node, without a GPU or torch. launcher=slurm is implied.

    Example: sft submit recipe=alpaca_qlora launcher.partition=gpu launcher.time=4:00:00 --dry-run
    """
    from sft_cli.slurm.submit import job_config, submit_job

    config = job_config(overrides or [], config_dir or [])
    say(submit_job(config, dry_run=dry_run).removesuffix("\n"))
