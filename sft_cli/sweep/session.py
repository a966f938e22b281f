"""One session of a sweep on this machine: its members run, are told about and written down, and are ranked."""

import shlex
from collections.abc import Mapping, Sequence

from sft_cli.console import say
from sft_cli.sweep.page import write_page
from sft_cli.sweep.plan import Member
from sft_cli.sweep.ranking import show
from sft_cli.sweep.runner import Told, run_members
from sft_cli.sweep.state import Outcome, Record, State, outcome, save
from sft_cli.sweep.status import Status


def run_here(record: Record, environments: Sequence[Mapping[str, str]], errors: Mapping[Member, str]) -> int:
    """Run what is not finished, and conclude; the exit code.

    Args:
        record: The sweep.
        environments: For each member that runs at a time, what its environment has beside ours.
        errors: Why members failed in an earlier session.
    """
    status = Status(record)
    outcomes = {member: outcome(record, member) for member in record.members}
    left = [member for member in record.members if outcomes[member].state is not State.finished]
    outcomes |= {member: outcome(record, member, errors.get(member, "")) for member in left}

    def end(member: Member, reason: str) -> None:
        outcomes[member] = outcome(record, member, reason)
        status.end(member, outcomes[member])
        save(record, outcomes)

    told = Told(status.start, end, lambda members: status.running(members, outcomes))
    stopped = run_members(record, left, environments, told)
    status.close()
    conclude(record, outcomes)
    if stopped:
        say(f"stopped   resume with: sft sweep --resume {shlex.quote(str(record.directory))}")
        return 128 + stopped
    return int(any(found.state is not State.finished or found.error for found in outcomes.values()))


def conclude(record: Record, outcomes: Mapping[Member, Outcome]) -> None:
    """Write down how the members stand, and show it."""
    save(record, outcomes)
    write_page(record, outcomes)
    show(record, outcomes)
