"""Score answers by the instructions of their items: strict and loose, per item and per instruction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sft_cli.scoring.base import require_packages
from sft_cli.scoring.instructions.base import Instruction
from sft_cli.scoring.instructions.read import check_items, may_differ, read_instructions
from sft_cli.scoring.instructions.tables import Form
from sft_cli.scoring.instructions.text import LIBRARIES
from sft_cli.scoring.types import Answer, Item, Verdict

DIFFERS = "differs_from_ifeval"
"""Metric of ``ifeval_fixed``: whether ``ifeval`` judges the answer differently."""


def loose_variants(answer: str) -> list[str]:
    """Return the answer, without its first line, last line and both, and each of these without asterisks.

    An instruction is followed loosely if one of them follows it: answers often start with "Sure, here it is:" and use
    Markdown. The variants are in the order of the answer, then the shortened ones; the same text is given once.
    """
    lines = answer.split("\n")
    whole = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*whole, *(text.replace("*", "") for text in whole)]))


@dataclass(frozen=True)
class InstructionScorer:
    """Scores answers by verifiable instructions.

    Scores of an answer: ``prompt_strict`` and ``prompt_loose`` (1 if all instructions are followed, else 0),
    ``instruction_strict`` and ``instruction_loose`` (share of its instructions that are followed). An item whose only
    instruction contradicts itself has no scores.

    Attributes:
        form: ``ifeval`` (with the defects of the published checks), ``ifeval_fixed`` (corrected) or ``ifbench``.
    """

    form: Form

    def __post_init__(self) -> None:
        require_packages(self.form, *LIBRARIES)

    def check_items(self, items: Iterable[Item]) -> None:
        """Refuse items with unknown instructions or wrong arguments; called before any answer is generated."""
        check_items(items, self.form)

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the verdict of one answer; the reason names the first instruction that is not strictly followed."""
        instructions = read_instructions(item, self.form)
        if not instructions:
            return Verdict({}, reason="not scored: the instruction contradicts itself")
        strict, loose = _results(instructions, answer.text)
        scores = {
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(loose)),
            "instruction_strict": sum(strict) / len(strict),
            "instruction_loose": sum(loose) / len(loose),
        }
        if self.form == "ifeval_fixed":
            scores[DIFFERS] = float(may_differ(item) and _differs(item, answer.text, strict, loose))
        return Verdict(scores, reason=_reason(instructions, strict, loose))

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the share of all instructions that are followed, strictly and loosely; empty without any."""
        scored = [(item, verdict) for item, verdict in zip(items, verdicts, strict=True) if verdict.scores]
        counts = [len(read_instructions(item, self.form)) for item, _ in scored]
        if not counts:
            return {}
        summary = {}
        for metric in ("instruction_strict", "instruction_loose"):
            pairs = zip(counts, scored, strict=True)
            followed = sum(round(count * verdict.scores[metric]) for count, (_, verdict) in pairs)
            summary[f"{metric}_accuracy"] = followed / sum(counts)
        return summary


def _results(instructions: Sequence[Instruction], answer: str) -> tuple[list[bool], list[bool]]:
    """Return for each instruction whether it is followed strictly, and loosely."""
    variants = loose_variants(answer)
    strict = [one.is_followed(answer) for one in instructions]
    loose = [done or any(map(one.is_followed, variants[1:])) for one, done in zip(instructions, strict, strict=True)]
    return strict, loose


def _differs(item: Item, answer: str, strict: Sequence[bool], loose: Sequence[bool]) -> bool:
    """Return whether the published form judges an item, as a whole or by its instructions, differently."""
    return _results(read_instructions(item, "ifeval"), answer) != (strict, loose)


def _reason(instructions: Sequence[Instruction], strict: Sequence[bool], loose: Sequence[bool]) -> str:
    """Return which instruction is the first that is not followed, and whether it is loosely; empty if all are."""
    for instruction, done, nearly in zip(instructions, strict, loose, strict=True):
        if not done:
            note = " (but followed loosely)" if nearly else ""
            return f"not followed{note}: {instruction.describe()}"
    return ""
