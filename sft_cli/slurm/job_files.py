"""The files that a job starts from."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sft_cli.errors import SftError


def require_empty_run_dir(run_dir: Path) -> None:
    """Refuse a run directory that exists, unless it is empty."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    job = run_dir / "job.sbatch"
    start_anew = "run_dir=DIR starts another run"
    goes_on = f"sbatch {shlex.quote(str(job))} resumes it; {start_anew}"
    raise SftError(
        where=str(run_dir),
        problem="exists already and is not an empty directory",
        fix=goes_on if job.exists() else start_anew,
    )


@contextmanager
def job_files(directory: Path, texts: Mapping[str, str], where: str) -> Iterator[None]:
    """Hold these files (name -> text) in the directory; when what follows is refused, nothing of them stays.

    Args:
        directory: Made if it is not there.
        texts: The files.
        where: The key to change if they cannot be written.
    """
    created = not directory.exists()
    try:
        _write(directory, texts, where)
        yield
    except SftError:
        if directory.is_dir():
            for name in texts:
                (directory / name).unlink(missing_ok=True)
            if created:
                directory.rmdir()
        raise


def _write(directory: Path, texts: Mapping[str, str], where: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise SftError(where=str(directory), problem=problem, fix=f"choose another {where}") from error
