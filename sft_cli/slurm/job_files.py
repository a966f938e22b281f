"""Write the files that a job starts from."""

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
    new_run = "run_dir=DIR starts another run"
    resume = f"sbatch {shlex.quote(str(job))} resumes it; {new_run}"
    raise SftError(
        where=str(run_dir),
        problem="the directory exists and is not empty",
        fix=resume if job.exists() else new_run,
    )


@contextmanager
def job_files(directory: Path, texts: Mapping[str, str], where: str) -> Iterator[None]:
    """Write files (name -> text) to the directory, and remove them if the block raises an ``SftError``.

    Args:
        directory: The directory, created if missing.
        texts: Texts of the files by name.
        where: Key to change if the files cannot be written.
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
    """Write the files, or raise an error that names the key to change."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise SftError(
            where=str(directory), problem=problem, fix=f"{where}=DIR on a disk that you can write to"
        ) from error
