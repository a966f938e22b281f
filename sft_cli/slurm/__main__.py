"""``python -m sft_cli.slurm``, which scripts/slurm/submit.sh calls: submit a training run to SLURM."""

import argparse
import sys
from collections.abc import Sequence

from sft_cli.errors import Mistakes, SftError
from sft_cli.slurm.submit import submit_command


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status: 2 after a user's mistake, which is one message on stderr."""
    parser = argparse.ArgumentParser(
        prog="submit.sh", allow_abbrev=False, description="Submit a training run to SLURM."
    )
    parser.add_argument("overrides", nargs="*", help="recipe=NAME launcher=slurm, and any key=value of sft train")
    parser.add_argument("--dry-run", action="store_true", help="print the job script and write nothing")
    parser.add_argument(
        "-d", "--config-dir", action="append", default=[], help="directory of your own recipes and groups"
    )
    given = parser.parse_intermixed_args(argv)
    try:
        sys.stdout.write(submit_command(given.overrides, given.config_dir, dry_run=given.dry_run))
    except SftError as error:
        for mistake in error.errors if isinstance(error, Mistakes) else (error,):
            print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
