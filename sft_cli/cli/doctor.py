"""``sft doctor``: check this machine."""

import typer


def doctor() -> None:
    """Check this machine: versions, CUDA, four-bit weights, processes, memory, disk, SLURM.

    Example: sft doctor
    """
    from sft_cli.check.doctor import check_machine

    raise typer.Exit(check_machine())
