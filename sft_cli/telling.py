"""How a command ends when something went wrong: a sentence and exit code 2, or a bug's traceback and exit code 1."""

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from sft_cli import console, screen
from sft_cli.errors import Elsewhere, Mistakes, SftError
from sft_cli.visible import visible

ENVIRONMENT = {
    errno.EACCES: "choose a directory you may write to (run_dir, prepared_dir, SFT_HOME), or change its permissions",
    errno.EPERM: "choose a directory you may write to (run_dir, prepared_dir, SFT_HOME), or change its permissions",
    errno.EROFS: "choose a directory on a writable disk (run_dir, prepared_dir, SFT_HOME)",
    errno.ENOSPC: "free disk space, then type the same again; a run resumes with sft train run=DIR",
    errno.EDQUOT: "free disk space, then type the same again; a run resumes with sft train run=DIR",
    errno.ENAMETOOLONG: "choose a shorter name or path",
    errno.ELOOP: "a symbolic link leads back to itself: name the file or directory it was meant to lead to",
    errno.ENOTDIR: "a file stands where a directory is wanted: choose another path",
}
"""What a person can do about an error of the operating system, by its number; any other is a bug."""


@contextmanager
def told() -> Iterator[None]:
    """Tell what goes wrong within, and leave with its exit code."""
    try:
        yield
    except SftError as error:
        for mistake in error.errors if isinstance(error, Mistakes) else (error,):
            _tell(f"error: {mistake}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            _bug(error)
        from sft_cli.config.disks import full_disk

        # Of two files (a copy, a renaming) the second one is where it failed.
        where = error.filename2 or error.filename or full_disk(sys.argv[1:])
        _tell(f"error: {where}: {error.strerror}\n  fix: {ENVIRONMENT[error.errno]}")
        sys.exit(2)
    except Elsewhere as failure:
        sys.exit(failure.code)
    except Exception as error:
        _bug(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _tell(text: str) -> None:
    """Print a text on standard error without secrets and without what would steer the terminal; in colour there."""
    from sft_cli.config.secrets import hushed

    shown = visible(hushed(text))
    console.note(shown)
    console.clear_status()
    print(screen.marked(shown) if screen.has_colours(sys.stderr) else shown, file=sys.stderr, flush=True)


def _bug(error: Exception) -> NoReturn:
    """An error that no user can mend keeps its traceback, told as carefully as any other."""
    _tell("".join(traceback.format_exception(error)).rstrip("\n"))
    sys.exit(1)
