"""Find the full disk where the operating system's error does not name it."""

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from sft_cli.config.paths import cache_home
from sft_cli.utils.disks import free_bytes
from sft_cli.utils.home import expand_home

PLACES = ("run_dir", "prepared_dir", "--out", "--resume")
"""Config keys and options that name a directory to write to."""
FULL = 2**20
"""Number of free bytes below which a disk counts as full."""


def describe_full_disk(words: Sequence[str]) -> str:
    """Return ``the disk of DIR`` for the first full disk a command writes to, else ``this machine``.

    Args:
        words: The command line.
    """
    pairs = [word.partition("=")[::2] for word in words] + list(pairwise(words))
    places = [expand_home(value) for key, value in pairs if key in PLACES and value]
    places += [path for word in words if "=" not in word and (path := expand_home(word)).is_dir()]
    for place in (*places, cache_home(), Path.cwd(), Path(tempfile.gettempdir())):
        if free_bytes(place) < FULL:
            return f"the disk of {place}"
    return "this machine"
