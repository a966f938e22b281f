"""``sft stop``: stop a run after its current step, or finish it now."""

from typing import Annotated

import typer

from sft_cli.cli.options import Run


def stop(
    run: Run,
    export: Annotated[
        bool, typer.Option("--export", help="Finish the run now: evaluate, and export the best weights so far.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until the run has stopped.")] = False,
) -> None:
    """Stop a run after its current step, also on another machine that shares its disk. It can be resumed.

    With --export the run is finished instead, also one that was stopped before.

    Example: sft stop runs/quickstart-20250101-120000
    """
    from sft_cli.run_dir import open_run
    from sft_cli.train.stop import stop_run

    stop_run(open_run(run, "sft stop"), export=export, wait=not no_wait)
