"""Move a finished directory into place, so that an incomplete one is never visible there."""

import errno
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sft_cli.data.prepared import read_manifest
from sft_cli.errors import SftError

TEMP_NAME = ".sft-prepare-"
"""Part of the names of unfinished directories."""


def replace_directory(new: Path, final: Path) -> None:
    """Move a finished directory into place; the old one is removed afterwards.

    If another process has put the same data there in the meantime, ``new`` is not moved.

    Raises:
        SftError: Another process has put other data there in the meantime.
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
                    fix="prepared_dir=DIR of its own for each run, or remove prepared_dir",
                )
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _try_move(new: Path, final: Path) -> bool:
    """Move ``new`` to ``final``; return whether ``final`` now holds its data, moved or from another process."""
    try:
        new.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        wanted, present = read_manifest(new), read_manifest(final)
        return wanted is not None and present is not None and wanted["fingerprint"] == present["fingerprint"]
    return True


def temp_directory(final: Path) -> Path:
    """Create an empty directory next to ``final``; those of killed processes are removed after a day.

    Returns:
        The new directory.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f".*{TEMP_NAME}*"):
        with suppress(FileNotFoundError):  # its own process has removed it
            if time.time() - leftover.stat().st_mtime > 86_400:
                shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f".{final.name}{TEMP_NAME}", dir=final.parent))
