#!/bin/bash
# Submits a training run to SLURM, on the login node (no GPU, no torch needed). It is `sft submit`:
#
#     scripts/slurm/submit.sh recipe=quickstart [overrides] [--dry-run] [-d DIR]
#
# Needs the `python` of an environment that holds sft_cli; PYTHON=/path/to/python names another one.
set -euo pipefail
python="${PYTHON:-python}"
if ! "$python" -P -c 'import sft_cli' 2>/dev/null; then
    printf 'error: %s: cannot import sft_cli\n  fix: activate the environment it is installed in, or set PYTHON\n' "$python" >&2
    exit 2
fi
exec "$python" -P -m sft_cli submit "$@" # -P: the working directory holds no modules
