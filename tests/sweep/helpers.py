"""A sweep directory for tests: two keys, four members, one of them failed."""

import json
from pathlib import Path

from sft_cli.config.compose import compose, dump_config
from sft_cli.sweep.metric import HELD_OUT, SweepMetric
from sft_cli.sweep.plan import Member
from sft_cli.sweep.state import MemberOutcome, SweepRecord, read_outcome

MEMBERS = (
    Member(1, "001-lr=1e-3_rank=4", ("1e-3", "4")),
    Member(2, "002-lr=1e-3_rank=8", ("1e-3", "8")),
    Member(3, "003-lr=1e-2_rank=4", ("1e-2", "4")),
    Member(4, "004-lr=1e-2_rank=8", ("1e-2", "8")),
)
LOSSES = {1: [3.0, 2.0], 2: [3.0, 1.5], 3: [2.5, 1.0]}
"""Held-out loss of each finished member after steps 2 and 4."""
SENTENCE = "step 2: training diverged\n  fix: start a new run with a smaller trainer.lr"


def swept(directory: Path, *, words: tuple[str, ...] = ("recipe=quickstart", "trainer.lr=1e-3,1e-2")) -> SweepRecord:
    """Write the run directories of the members as sft train leaves them, and return the sweep."""
    record = SweepRecord(
        directory, words, ("trainer.lr", "adapter.rank"), MEMBERS, SweepMetric("loss", "min", HELD_OUT), parallel=2
    )
    config = dump_config(compose(["recipe=quickstart"]))
    for member in MEMBERS:
        run = record.run(member)
        run.path.mkdir(parents=True)
        run.config.write_text(config)
        losses = LOSSES.get(member.number, [])
        lines = [{"step": step, "loss": 9.0, "terms": {}, "seconds": 1.5} for step in range(1, 2 + 2 * len(losses))]
        evaluations = [{"step": 2 + 2 * i, "eval": True, "loss": loss} for i, loss in enumerate(losses)]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *evaluations]))
        if losses:
            run.adapter.mkdir()
        else:
            record.log(member).write_text(f"step 1\nerror: {SENTENCE}\n")
    return record


def outcomes(record: SweepRecord) -> dict[Member, MemberOutcome]:
    """Return the outcomes of the members."""
    return {member: read_outcome(record, member) for member in record.members}
