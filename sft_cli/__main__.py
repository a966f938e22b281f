"""Run ``sft`` with ``python -m sft_cli``."""

from sft_cli.cli import main

main()
