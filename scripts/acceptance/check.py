"""Run one check in this process: ``python -m acceptance.check NAME DIRECTORY [--dry]``."""

import argparse
import importlib
from pathlib import Path

from acceptance.checks import CHECKS
from acceptance.findings import Check, Findings
from acceptance.sizes import SIZES


def main() -> None:
    """Run the check that is named, and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    sizes = SIZES["dry" if options.dry else "full"].get(options.name, {})
    module, function = CHECKS[options.name].place.split(":")
    found = Findings(options.directory / "result.json")
    vars(importlib.import_module(module))[function](Check(options.directory, sizes, options.dry, found))


if __name__ == "__main__":
    main()
