"""A finished directory is moved into its place; nothing half-written is ever seen there."""

import errno
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sft_cli.data.prepared import read_manifest
from sft_cli.errors import SftError

TEMP_NAME = ".sft-prepare-"
"""In the names of unfinished directories."""


def replace_directory(new: Path, final: Path) -> None:
    """Move a finished directory into place; what stood there is removed only afterwards.

    Another process may be doing the same: if it has put the same data there, ``new`` stays where it is.

    Raises:
        SftError: Another process has put other data there meanwhile.
    """
    old = temp_directory(final)
    try:
        if not _try_move(new, final):
            with suppress(FileNotFoundError):  # another process has moved it away
                final.rename(old / final.name)
            if not _try_move(new, final):
                raise SftError(
                    where=str(final),
                    problem="another process has put other data there at the same time",
                    fix="give each run its own prepared_dir, or leave it out",
                )
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _try_move(new: Path, final: Path) -> bool:
    """Whether ``final`` now holds what ``new`` did: moved there, or put there by another process; else it is taken."""
    try:
        new.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        made, present = read_manifest(new), read_manifest(final)
        return made is not None and present is not None and made["fingerprint"] == present["fingerprint"]
    return True


def temp_directory(final: Path) -> Path:
    """A new empty directory beside ``final``; those that killed processes left there are removed after a day."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".*{TEMP_NAME}*"):
        with suppress(FileNotFoundError):  # its own process has removed it
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f".{final.name}{TEMP_NAME}", dir=final.parent))
