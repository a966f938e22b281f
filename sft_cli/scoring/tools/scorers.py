"""Score tool calls: right ones where a tool fits, and none where no tool does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.scoring.base import MeanScorer, item_error
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.tools.check_calls import check_calls
from sft_cli.scoring.tools.read_calls import ReadCalls, ToolCall, read_calls
from sft_cli.scoring.types import Answer, Item, Verdict


def _functions(item: Item, column: str) -> Sequence[Mapping[str, Any]]:
    """Return the functions of an item, as BFCL or OpenAI's API describes them."""
    functions = item.fields.get(column)
    if not isinstance(functions, list | tuple) or not functions:
        raise item_error(
            item,
            f"the column {column} has no list of functions",
            "add it, or eval.suites.NAME.options.functions=COLUMN",
        )
    inner = [function.get("function", function) if isinstance(function, Mapping) else {} for function in functions]
    if not all(isinstance(function.get("name"), str) and "parameters" in function for function in inner):
        raise item_error(item, f"a function in {column} has no name or no parameters", "correct the item's row")
    return inner


def _read(answer: Answer, functions: Sequence[Mapping[str, Any]]) -> ReadCalls:
    """Return the calls of an answer; names are also recognized with underscores in place of dots."""
    names = {name for function in functions for name in (function["name"], function["name"].replace(".", "_"))}
    return read_calls(answer.text.rpartition(REASONING_END)[2], names)


def _show(calls: Sequence[ToolCall]) -> str:
    """Return calls in one line."""
    written = (f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})" for call in calls)
    return ", ".join(written)[:1000]


@dataclass(frozen=True, slots=True)
class ToolCalls(MeanScorer):
    """``tool_call`` (right calls), ``abstained`` and ``unparsable``, for BFCL's simple, multiple and parallel files.

    Attributes:
        functions: Column of the items with the functions.
        accepted: Column with the accepted calls; see check_calls.py.
    """

    functions: str = "function"
    accepted: str = "ground_truth"

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the calls are accepted ones."""
        functions, accepted = _functions(item, self.functions), self._accepted(item)
        read = _read(answer, functions)
        reason = check_calls(read.calls, accepted, functions) if read.kind == "called" else f"the answer is {read.kind}"
        scores = {
            "tool_call": float(reason is None),
            "abstained": float(read.kind == "abstained"),
            "unparsable": float(read.kind == "unparsable"),
        }
        return Verdict(scores, reason or "", _show(read.calls), read.kind)

    def _accepted(self, item: Item) -> list[Any]:
        """Return the accepted calls of an item."""
        accepted = item.fields.get(self.accepted)
        calls = list(accepted) if isinstance(accepted, list | tuple) else []
        if not calls or not all(isinstance(call, Mapping) and len(call) == 1 for call in calls):
            raise item_error(
                item,
                f"the column {self.accepted} has no list of calls",
                "add it, or eval.suites.NAME.options.accepted=COLUMN",
            )
        return calls


@dataclass(frozen=True, slots=True)
class ToolAbstention(MeanScorer):
    """``abstained``, ``called`` and ``unparsable`` where no function fits (BFCL's irrelevance).

    Only an answer in words abstains: neither a call that cannot be read nor an empty answer does.

    Attributes:
        functions: Column of the items with the functions.
    """

    functions: str = "function"

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 as ``abstained`` if the answer calls no function."""
        read = _read(answer, _functions(item, self.functions))
        scores = {kind: float(read.kind == kind) for kind in ("abstained", "called", "unparsable")}
        reason = "" if read.kind == "abstained" else f"the answer is {read.kind}; no function fits the question"
        return Verdict(scores, reason, _show(read.calls), read.kind)
