"""Number of random inputs of property tests: a sixth, and at least 8, for every change, all of them nightly."""

import os


def examples(nightly: int) -> int:
    """Return the number of inputs of this run for a property test with ``nightly`` inputs in nightly runs."""
    return nightly if os.environ.get("SFT_TEST_EXAMPLES") == "all" else max(8, nightly // 6)
