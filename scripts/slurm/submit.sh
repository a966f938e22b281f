#!/bin/bash
# Submit a training run to SLURM from the login node, without a GPU or torch. Calls `sft submit`:
#
#     scripts/slurm/submit.sh recipe=quickstart [overrides] [--dry-run] [-d DIR]
#
# Uses the `python` of an environment with sft_cli; PYTHON=/path/to/python selects another one.
set -euo pipefail
python="${PYTHON:-python}"
if ! "$python" -P -c 'import sft_cli' 2>/dev/null; then
    printf 'error: %s: cannot import sft_cli\n  fix: activate the environment of sft_cli, or set PYTHON\n' "$python" >&2
    exit 2
fi
exec "$python" -P -m sft_cli submit "$@" # -P: import no modules from the working directory
