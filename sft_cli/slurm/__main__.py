"""``python -m sft_cli.slurm``, which scripts/slurm/submit.sh calls: submit a training run to SLURM."""

import argparse
import sys
from collections.abc import Sequence

from sft_cli.console import say
from sft_cli.slurm.submit import submit_command
from sft_cli.telling import told


def main(argv: Sequence[str]) -> None:
    """Entry point; a user's mistake is one message on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="submit.sh", allow_abbrev=False, description="Submit a training run to SLURM."
    )
    parser.add_argument("overrides", nargs="*", help="recipe=NAME launcher=slurm, and any key=value of sft train")
    parser.add_argument("--dry-run", action="store_true", help="print the job script and write nothing")
    parser.add_argument(
        "-d", "--config-dir", action="append", default=[], help="directory of your own recipes and groups"
    )
    given = parser.parse_intermixed_args(argv)
    with told():
        say(submit_command(given.overrides, given.config_dir, dry_run=given.dry_run).removesuffix("\n"))


if __name__ == "__main__":
    main(sys.argv[1:])
