"""What a judge's run gives: verdicts, estimates, the audit, and why scores are withheld."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sft_cli.scoring.judge.audit import JudgeAudit
from sft_cli.scoring.judge.session import JudgeUsage
from sft_cli.scoring.statistics import Estimate
from sft_cli.scoring.types import Verdict


@dataclass(frozen=True)
class JudgeResult:
    """The verdicts of a judge with its audit.

    Attributes:
        verdicts: The verdict of each item, in order; without scores where the judge gave none.
        measured: The estimates by metric, whether or not they are withheld.
        audit: What was found out about the judge and the answers.
        withheld: Why the estimates are no scores, one sentence each; empty if the audit is within its limits.
        usage: Tokens, time and cost.
    """

    verdicts: Sequence[Verdict]
    measured: Mapping[str, Estimate]
    audit: JudgeAudit
    withheld: Sequence[str]
    usage: JudgeUsage

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """The estimates; none if they are withheld."""
        return {} if self.withheld else self.measured

    def as_record(self) -> dict[str, Any]:
        """Return all but the verdicts as plain values for a file."""
        measured = {name: asdict(estimate) for name, estimate in self.measured.items()}
        return {
            "withheld": list(self.withheld),
            "measured": measured,
            "audit": asdict(self.audit),
            "usage": asdict(self.usage),
        }
