"""End a command after an error: a message and exit code 2, or the traceback of a bug and exit code 1."""

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
from sft_cli.progress import clear_progress, has_terminal

WRITTEN = {
    "train": "run_dir=DIR, prepared_dir=DIR",
    "prepare": "prepared_dir=DIR",
    "merge": "--out DIR",
    "sweep": "--out DIR",
    "eval": "a copy of the run",
}
"""Command -> words that set the directory it writes to."""
ENVIRONMENT = {
    errno.EACCES: "choose a directory you may write to ({places}), or change its permissions",
    errno.EPERM: "choose a directory you may write to ({places}), or change its permissions",
    errno.EROFS: "choose a directory on a writable disk ({places})",
    errno.ENOSPC: "free disk space, then run the command again;  a run resumes with sft train --resume RUN",
    errno.EDQUOT: "free disk space, then run the command again;  a run resumes with sft train --resume RUN",
    errno.ENAMETOOLONG: "choose a shorter name or path",
    errno.ELOOP: "a symbolic link points to itself: name the file or directory it should point to",
    errno.ENOTDIR: "a file is where a directory is expected: choose another path",
}
"""Number of an operating system error -> its fix; any other error is a bug."""


INTERRUPTED = 130
"""Exit code after Ctrl-C: what a shell reports for a command that SIGINT ended."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error raised in the block, and exit with its code."""
    try:
        yield
    except SftError as error:
        for mistake in error.errors if isinstance(error, Mistakes) else (error,):
            _print_error(f"error: {mistake}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            _bug(error)
        from sft_cli.config.disks import describe_full_disk

        # With two files (copying, renaming), the second one caused the error.
        where = error.filename2 or error.filename or describe_full_disk(sys.argv[1:])
        _print_error(f"error: {where}: {error.strerror}\n  fix: {_remedy(error.errno, str(where), sys.argv[1:])}")
        sys.exit(2)
    except Elsewhere as failure:
        sys.exit(failure.code)
    except Exception as error:
        _bug(error)
    except KeyboardInterrupt:
        clear_progress()
        if "RANK" not in os.environ:  # else the process that started this one reports it
            print("\ninterrupted" if has_terminal() else "interrupted", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def _remedy(number: int, where: str, words: Sequence[str]) -> str:
    """Return the fix for an operating system error at a path, for the command that was running."""
    if number in (errno.EACCES, errno.EPERM) and os.path.isfile(where) and not os.access(where, os.R_OK):
        return f"you may not read this file: chmod u+r {shlex.quote(where)}, or name another"
    option = WRITTEN.get(words[0]) if words else None
    return ENVIRONMENT[number].format(places=f"{option}, or SFT_HOME" if option else "SFT_HOME")


def _print_error(text: str) -> None:
    """Print a text on standard error without secrets and control sequences; in color on a terminal."""
    from sft_cli.config.redaction import redact_secrets

    printable = escape_control(redact_secrets(text))
    console.note(printable)
    clear_progress()
    print(
        text_layout.colorize_labels(printable) if text_layout.supports_color(sys.stderr) else printable,
        file=sys.stderr,
        flush=True,
    )


def _bug(error: Exception) -> NoReturn:
    """Print the traceback of an error that is a bug, and exit with code 1."""
    _print_error("".join(traceback.format_exception(error)).rstrip("\n"))
    sys.exit(1)
