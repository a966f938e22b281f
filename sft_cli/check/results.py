"""Results of checks, printed as a line each, with a fix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from sft_cli.console import say
from sft_cli.errors import Mistakes, SftError

INDENT = " " * 16


class CheckStatus(str, Enum):
    """Outcome of a check; only ``fail`` makes the command fail."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


COLOURS = {CheckStatus.ok: "green", CheckStatus.warn: "yellow", CheckStatus.fail: "red"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: The subject, in a word.
        status: The outcome.
        text: The finding, with figures.
        fix: Words to type, or an action, one alternative per line; empty if there is nothing to do.
        more: Further lines.
    """

    name: str
    status: CheckStatus
    text: str
    fix: str = ""
    more: Sequence[str] = ()

    def __str__(self) -> str:
        """Return ``ok    data      …``, followed by indented details and the fix."""
        labels = ("do: ", *["or: "] * self.fix.count("\n"))
        actions = (
            [f"{label}{text}" for label, text in zip(labels, self.fix.split("\n"), strict=True)] if self.fix else []
        )
        below = [*self.more, *actions]
        return "\n".join([f"{self.status.value:<5} {self.name:<9} {self.text}", *(INDENT + text for text in below)])


def ok(name: str, text: str, fix: str = "", more: Sequence[str] = ()) -> CheckResult:
    """Return a passed check."""
    return CheckResult(name, CheckStatus.ok, text, fix, more)


def warn(name: str, text: str, fix: str, more: Sequence[str] = ()) -> CheckResult:
    """Return a check that passed with a warning."""
    return CheckResult(name, CheckStatus.warn, text, fix, more)


def fail(name: str, text: str, fix: str, more: Sequence[str] = ()) -> CheckResult:
    """Return a failed check."""
    return CheckResult(name, CheckStatus.fail, text, fix, more)


def failures_from_error(name: str, error: SftError) -> list[CheckResult]:
    """Return a failed check for each error."""
    errors = error.errors if isinstance(error, Mistakes) else (error,)
    return [fail(name, f"{mistake.where}: {mistake.problem}", mistake.fix) for mistake in errors]


@dataclass
class CheckReport:
    """The results of one command, printed as they arrive."""

    lines: list[CheckResult] = field(default_factory=list)

    def add(self, *lines: CheckResult) -> None:
        """Print results and store them."""
        for line in lines:
            say(str(line), indent=len(INDENT), colour=COLOURS[line.status])
        self.lines += lines

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Record a user's error in the block as a failed check, and continue after the block."""
        try:
            yield
        except SftError as error:
            self.add(*failures_from_error(name, error))

    def count(self, status: CheckStatus) -> int:
        """Return the number of results with this status."""
        return sum(line.status is status for line in self.lines)

    def finish(self, what: str, next: str) -> int:
        """Print the summary.

        Returns:
            The exit code: 1 if any check failed, else 0.

        Args:
            what: Subject of the command.
            next: Words to type next if nothing failed.
        """
        failed, warned = self.count(CheckStatus.fail), self.count(CheckStatus.warn)
        summary = f"{len(self.lines) - failed - warned} ok, {warned} warned, {failed} failed"
        say(f"\n{what}: {summary}; " + ("fix the failures, then run the check again" if failed else f"next: {next}"))
        return 1 if failed else 0
