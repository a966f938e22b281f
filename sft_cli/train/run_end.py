"""How a run ended, in end.json, and requests to end it, in stop.json; without torch."""

import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Literal

from sft_cli.run_dir import TRAINS_FURTHER, RunDir
from sft_cli.utils.atomic import write_atomic

EndReason = Literal["completed", "patience", "finished early", "extended"]
"""Completed: all planned steps. Patience: see trainer.patience. Finished early: on request. Extended: it trains on."""


class StopRequest(IntEnum):
    """What a run is asked to do after its current step; a larger value wins."""

    none = 0
    save = 1
    finish = 2


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run.

    Attributes:
        step: Optimizer steps done.
        planned_steps: Optimizer steps of the plan.
        exported_step: The step whose weights were exported.
        reason: Why training ended.
    """

    step: int
    planned_steps: int
    exported_step: int
    reason: EndReason


def write_end(run: RunDir, end: RunEnd) -> None:
    """Write ``end.json``."""
    write_atomic(run.end, json.dumps(asdict(end)) + "\n")


def read_end(run: RunDir) -> RunEnd | None:
    """Return the end of a finished run; None if it is not finished."""
    if not run.is_finished() or not run.end.is_file():
        return None
    return RunEnd(**run.read_json(run.end))


def mark_extended(run: RunDir) -> None:
    """Record that a finished run trains further, so that it counts as unfinished until it ends again."""
    if run.is_finished():
        before = run.read_json(run.end) if run.end.is_file() else {}
        write_atomic(run.end, json.dumps({**before, "reason": TRAINS_FURTHER}) + "\n")


def request_stop(run: RunDir, request: StopRequest) -> None:
    """Write a request that the training loop reads after each step, also on another machine."""
    write_atomic(run.stop_request, json.dumps({"request": request.name}) + "\n")


def requested_stop(run: RunDir) -> StopRequest:
    """Return the request of ``stop.json``; none if there is no file or it is damaged."""
    try:
        return StopRequest[run.read_json(run.stop_request)["request"]]
    except (OSError, ValueError, KeyError, TypeError):
        return StopRequest.none


def clear_request(run: RunDir) -> None:
    """Remove ``stop.json``."""
    run.stop_request.unlink(missing_ok=True)
