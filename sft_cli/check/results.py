"""What a check says: a line for each thing looked at, with what to do about it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from sft_cli.console import say
from sft_cli.errors import Mistakes, SftError

INDENT = " " * 16


class CheckStatus(str, Enum):
    """How something stands; only ``fail`` makes the command fail."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


COLOURS = {CheckStatus.ok: "green", CheckStatus.warn: "yellow", CheckStatus.fail: "red"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        name: What it is, in a word.
        status: How it stands.
        text: What was found, with figures.
        fix: What to type or do; empty where nothing is to be done.
        more: Further lines below it.
    """

    name: str
    status: CheckStatus
    text: str
    fix: str = ""
    more: Sequence[str] = ()

    def __str__(self) -> str:
        """``ok    data      …``, and below it details and what to do."""
        below = [*self.more, *([f"do: {self.fix}"] if self.fix else [])]
        return "\n".join([f"{self.status.value:<5} {self.name:<9} {self.text}", *(INDENT + text for text in below)])


def ok(name: str, text: str, fix: str = "", more: Sequence[str] = ()) -> CheckResult:
    """A line about something that is as it should be."""
    return CheckResult(name, CheckStatus.ok, text, fix, more)


def warn(name: str, text: str, fix: str, more: Sequence[str] = ()) -> CheckResult:
    """A line about something that works, but should be looked at."""
    return CheckResult(name, CheckStatus.warn, text, fix, more)


def fail(name: str, text: str, fix: str, more: Sequence[str] = ()) -> CheckResult:
    """A line about something that stops the run."""
    return CheckResult(name, CheckStatus.fail, text, fix, more)


def failures_from_error(name: str, error: SftError) -> list[CheckResult]:
    """A line for each mistake."""
    errors = error.errors if isinstance(error, Mistakes) else (error,)
    return [fail(name, f"{one.where}: {one.problem}", one.fix) for one in errors]


@dataclass
class CheckReport:
    """The lines of one command, printed as they come."""

    lines: list[CheckResult] = field(default_factory=list)

    def add(self, *lines: CheckResult) -> None:
        """Print lines and keep them."""
        for line in lines:
            say(str(line), indent=len(INDENT), colour=COLOURS[line.status])
        self.lines += lines

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """A mistake of the user within becomes a failed line; what comes after the block is looked at all the same."""
        try:
            yield
        except SftError as error:
            self.add(*failures_from_error(name, error))

    def count(self, status: CheckStatus) -> int:
        """Lines that stand so."""
        return sum(line.status is status for line in self.lines)

    def finish(self, what: str, next: str) -> int:
        """The last line, and the exit code: 1 when anything failed.

        Args:
            what: What was checked.
            next: What to type when nothing failed.
        """
        failed, warned = self.count(CheckStatus.fail), self.count(CheckStatus.warn)
        told = f"{len(self.lines) - failed - warned} ok, {warned} to look at, {failed} failed"
        say(f"\n{what}: {told}; " + ("fix what failed, then run it again" if failed else f"next: {next}"))
        return 1 if failed else 0
