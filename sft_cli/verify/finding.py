"""The result of one check of a saved model."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "failed", "refused", "note", "skipped"]


@dataclass(frozen=True, slots=True)
class VerifyFinding:
    """The result of one check.

    Attributes:
        check: What was checked, in one or two words; the name of a server for what it would refuse.
        status: ``failed``: the model differs from the trained one; ``refused``: the server will not load it.
        text: One sentence.
        fix: A command or an act that removes the problem; empty if there is none.
    """

    check: str
    status: Status
    text: str
    fix: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether the check failed or a server refuses the model."""
        return self.status in ("failed", "refused")
