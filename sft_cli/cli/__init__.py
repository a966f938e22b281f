"""The command line: one file a command, which declares its options, calls the package that does the work, and prints.

``KEY=VALUE`` words set keys of the config; all else is a Typer option or argument.
"""

from sft_cli.cli.program import app, execute, main

__all__ = ["app", "execute", "main"]
