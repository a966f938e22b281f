"""Define remarks: notes on changes to a row, or properties of it, that are not errors but must not go unnoticed.

A format adds them to a ``Conversation``, encoding to an ``Outcome``. Used rows are counted by remark in manifest.json
(``remarks``), and shown after a preparation and in report.html with the place of the first one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

REMARKS: Mapping[str, str] = {
    "sanitized": "special-token strings in messages were encoded as plain text",
    "assistant_first": "the first assistant turn comes before any user turn: it is context, not trained",
    "reasoning_in_text": "reasoning is trained as <think> text in the answer: the template has no format for it",
    "empty_reasoning": "an answer without reasoning trains the empty reasoning block that the template writes",
    "arguments_as_text": "tool arguments reach the template as JSON text: it fails on objects, which servers send",
    "dated": "the template writes the date of this preparation; a server will write another date",
    "media_placeholder": "a message holds a placeholder such as <image> of a column that data.mix.<name>.ignore leaves"
    " out; the model reads it as plain text: remove it from the file",
    "padding": "null entries that Arrow adds were removed from tools and the arguments of calls",
    "unanswered": "messages after the last answer are left out: no answer follows them",
    "own_stop": "an answer ended with the template's stop token; it was removed, since the template writes it",
    "special_end": "an answer ends with a special token that is not the template's stop token, and trains it as text:"
    " remove it from the file",
    "header": "a message holds a header of the template, which the model cannot tell from a real one"
    " (data.delimiters=error refuses such rows)",
    "empty_answer": "an answer is empty: it teaches the model to stop at once (clean.steps=[leakage,length] drops rows"
    " whose last answer has no word)",
    "cut_answer": "truncation removed the end of a trained answer with its stop token:"
    " the model does not learn to stop there",
    "no_stop": "an answer is trained without the token that ends it: the model does not learn to stop there",
}
"""Key of a remark -> the sentence about the rows with it. Only these keys may be used."""
WARNINGS = frozenset({"empty_answer"})
"""Remarks about rows that are probably mistakes: they are printed as warnings, also when the data are used again."""


class RemarkCounts:
    """The number of rows with each remark, and the location of the first of them."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, Any]] = {}

    def add(self, keys: Iterable[str], where: str) -> None:
        """Count one row under each of its remarks."""
        for key in keys:
            assert key in REMARKS, f"{key} is not in REMARKS"
            entry = self._counts.setdefault(key, {"rows": 0, "first": where})
            entry["rows"] += 1

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return ``{key: {"rows": …, "first": …}}`` in the order of ``REMARKS``."""
        return {key: self._counts[key] for key in REMARKS if key in self._counts}


def remark_sentences(manifest: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return, for each remark in a manifest, ``note`` or ``warning``, the number of rows and a sentence about them."""
    return [
        ("warning" if key in WARNINGS else "note", entry["rows"], f"{REMARKS[key]} (the first: {entry['first']})")
        for key, entry in manifest.get("remarks", {}).items()
    ]
