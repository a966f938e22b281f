"""What was injected, whether it was survived, and what it cost."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Fault:
    """One fault.

    Attributes:
        kind: What happened.
        when: At which moment, or to what.
        survived: Whether everything that must hold afterwards held.
        repeated: Optimizer steps that were computed a second time.
        lost: Bytes of finished files that were lost or changed.
    """

    kind: str
    when: str
    survived: bool = False
    repeated: int = 0
    lost: int = 0


@dataclass
class Ledger:
    """All faults of a session."""

    faults: list[Fault] = field(default_factory=list)

    @contextmanager
    def fault(self, kind: str, when: str) -> Iterator[Fault]:
        """Count a fault; it is survived if the body ends, and the body says what it cost."""
        fault = Fault(kind, when)
        self.faults.append(fault)
        yield fault
        fault.survived = True

    def lines(self) -> list[str]:
        """A line for every kind and moment, and one for all of them."""
        groups: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.faults:
            groups.setdefault((fault.kind, fault.when), []).append(fault)
        found = [f"{'fault':<24}{'when':<48}{'tried':>6}{'survived':>10}{'repeated':>10}{'at most':>9}{'lost':>8}"]
        found += [_line(kind, when, faults) for (kind, when), faults in groups.items()]
        return [*found, _line("all", "steps repeated in total and by one fault, bytes lost", self.faults)]

    def save(self, file: Path) -> None:
        """Write every fault as JSON."""
        file.write_text(json.dumps([asdict(fault) for fault in self.faults], indent=1) + "\n", encoding="utf-8")


def _line(kind: str, when: str, faults: list[Fault]) -> str:
    repeated = [fault.repeated for fault in faults]
    survived, lost = sum(fault.survived for fault in faults), sum(fault.lost for fault in faults)
    return (
        f"{kind:<24}{when:<48}{len(faults):>6}{survived:>10}{sum(repeated):>10}{max(repeated, default=0):>9}{lost:>8}"
    )
