"""Fuzz untrusted input: configs, rows, files and templates. Print counts, seconds and every failure.

    nice python scripts/fuzz/run.py config --inputs 100000

Each input must end in a result or an SftError, within seconds, with no file written outside a temporary directory, no
program started and no connection opened.
"""

import argparse
import importlib
import sys
import time

import watching

TARGETS = {"config": "of_config", "rows": "of_rows", "files": "of_files", "templates": "of_templates"}


def main() -> int:
    """Fuzz the chosen target.

    Returns:
        The exit code: 1 if any input failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    module = importlib.import_module(TARGETS[asked.target])
    if asked.target == "config":
        module.remember()
    began = time.perf_counter()
    found = watching.fuzz(module.INPUTS, module.target, asked.inputs, asked.seed, lambda line: print(line, flush=True))
    seconds = time.perf_counter() - began
    print(
        f"{asked.target}: {found.inputs:,} inputs in {seconds:,.0f} s, {dict(found.outcomes)},"
        f" slowest {found.slowest:.2f} s, {len(found.failures)} kinds of failure"
    )
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
