"""The command line: one file per command, which declares options, calls the package that does the work, and prints.

``KEY=VALUE`` words set keys of the config; all other words are Typer options or arguments.
"""

from sft_cli.cli.interrupts import exit_on_interrupt

with exit_on_interrupt():  # Typer and the commands take half a second on a cold disk
    from sft_cli.cli.program import app, execute, main

__all__ = ["app", "execute", "main"]
