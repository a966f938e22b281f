"""Write a directory completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.utils.atomic import apply_umask


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Yield an empty directory next to ``out``, which is renamed to ``out`` unless the block raises.

    Raises:
        SftError: The disk is full or not writable.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        apply_umask(temporary)
        temporary.rename(out)
    except OSError as error:
        raise SftError(
            where=f"--out {out}",
            problem=f"the export cannot be written: {error.strerror or error}; nothing was left there",
            fix="free disk space, or --out DIR on another disk",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
