"""The user's home directory in paths that were typed."""

import os
from pathlib import Path


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return the path with ``~`` and ``~user`` replaced; unlike pathlib's, it leaves the name of an unknown user."""
    return Path(os.path.expanduser(path))
