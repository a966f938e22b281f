"""How a command ends when something went wrong: a sentence and exit code 2, or a bug's traceback and exit code 1."""

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from sft_cli import console, text_layout
from sft_cli.errors import Elsewhere, Mistakes, SftError
from sft_cli.escape import escape_control
from sft_cli.progress import clear_progress

WRITTEN = {
    "train": "run_dir=DIR, prepared_dir=DIR",
    "prepare": "prepared_dir=DIR",
    "merge": "--out DIR",
    "sweep": "--out DIR",
    "eval": "a copy of the run",
}
"""What names the directory that a command writes to."""
ENVIRONMENT = {
    errno.EACCES: "choose a directory you may write to ({places}), or change its permissions",
    errno.EPERM: "choose a directory you may write to ({places}), or change its permissions",
    errno.EROFS: "choose a directory on a writable disk ({places})",
    errno.ENOSPC: "free disk space, then type the same again; a run resumes with sft train --resume RUN",
    errno.EDQUOT: "free disk space, then type the same again; a run resumes with sft train --resume RUN",
    errno.ENAMETOOLONG: "choose a shorter name or path",
    errno.ELOOP: "a symbolic link leads back to itself: name the file or directory it was meant to lead to",
    errno.ENOTDIR: "a file is where a directory is expected: choose another path",
}
"""What a person can do about an error of the operating system, by its number; any other is a bug."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print what goes wrong in the block, and exit with the code of that error."""
    try:
        yield
    except SftError as error:
        for mistake in error.errors if isinstance(error, Mistakes) else (error,):
            _tell(f"error: {mistake}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            _bug(error)
        from sft_cli.config.disks import describe_full_disk

        # Of two files (a copy, a renaming) the second one is where it failed.
        where = error.filename2 or error.filename or describe_full_disk(sys.argv[1:])
        _tell(f"error: {where}: {error.strerror}\n  fix: {_remedy(error.errno, str(where), sys.argv[1:])}")
        sys.exit(2)
    except Elsewhere as failure:
        sys.exit(failure.code)
    except Exception as error:
        _bug(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _remedy(number: int, where: str, words: Sequence[str]) -> str:
    """What to do about an error of the operating system at a place, by what the command wanted there."""
    if number in (errno.EACCES, errno.EPERM) and os.path.isfile(where) and not os.access(where, os.R_OK):
        return f"you may not read this file: chmod u+r {shlex.quote(where)}, or name another"
    own = WRITTEN.get(words[0]) if words else None
    return ENVIRONMENT[number].format(places=f"{own}, or SFT_HOME" if own else "SFT_HOME")


def _tell(text: str) -> None:
    """Print a text on standard error without secrets and without what would steer the terminal; in colour there."""
    from sft_cli.config.redaction import redact_secrets

    shown = escape_control(redact_secrets(text))
    console.note(shown)
    clear_progress()
    print(
        text_layout.colorize_labels(shown) if text_layout.supports_color(sys.stderr) else shown,
        file=sys.stderr,
        flush=True,
    )


def _bug(error: Exception) -> NoReturn:
    """An error that no user can mend keeps its traceback, told as carefully as any other."""
    _tell("".join(traceback.format_exception(error)).rstrip("\n"))
    sys.exit(1)
