"""How many random inputs the laws are tried with: a sixth for every change, all of them nightly."""

import os


def examples(nightly: int) -> int:
    """The number of inputs for this run of a law that nightly runs try with ``nightly`` of them."""
    return nightly if os.environ.get("SFT_TEST_EXAMPLES") == "all" else max(8, nightly // 6)
