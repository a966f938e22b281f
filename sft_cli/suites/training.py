"""The suites that are asked while a model is trained: a fixed choice of the items of each."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.suites import SuiteKind
from sft_cli.suites.chosen import chosen_suites
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.scores import score_suite

PROBED_ITEMS = 8
"""Number of items that are scored with made-up answers to learn the names of a suite's metrics."""


def training_suites(config: Config) -> list[LoadedSuite]:
    """Return the suites of ``trainer.eval_suites`` with at most ``trainer.eval_suite_items`` items each.

    Raises:
        SftError: A suite cannot be loaded or scored.
    """
    trainer = config.trainer
    chosen = {name: config.eval.suites[name] for name in trainer.eval_suites}
    loaded = chosen_suites(replace(config.eval, suites=chosen, limit=None))
    return [replace(suite, items=spread_items(suite.items, trainer.eval_suite_items)) for suite in loaded]


def spread_items(items: Sequence[SuiteItem], number: int) -> tuple[SuiteItem, ...]:
    """Return at most ``number`` items, whole clusters, in their order; at least one cluster.

    The clusters are chosen by a digest of their names, so that the choice depends on no seed and on no order: a file
    is often sorted by subject.
    """
    clusters: dict[str, list[SuiteItem]] = {}
    for entry in items:
        clusters.setdefault(entry.item.cluster or entry.after or entry.item.id, []).append(entry)
    kept: set[str] = set()
    for name in sorted(clusters, key=lambda name: sha256(name.encode("utf-8", "surrogatepass")).digest()):
        chosen = {entry.item.id for entry in clusters[name]}
        if kept and len(kept) + len(chosen) > number:
            continue
        kept |= chosen
    return tuple(entry for entry in items if entry.item.id in kept)


def metric_names(suite: LoadedSuite) -> list[str]:
    """Return the names of the metrics of a suite, found by scoring empty answers and the expected ones."""
    entries = suite.items[:PROBED_ITEMS]
    few = replace(suite, items=tuple(entries))
    names: dict[str, None] = {}
    for text in ("", None):
        records = [_made_up(suite, entry, text) for entry in entries]
        names |= dict.fromkeys(score_suite(few, records).scores["metrics"])
    return list(names)


def _made_up(suite: LoadedSuite, entry: SuiteItem, text: str | None) -> dict[str, Any]:
    """Return a line of ``answers.jsonl`` with a text as the answer; None: the expected answer."""
    target = next(iter(entry.item.target), "")
    record: dict[str, Any] = {
        "id": entry.item.id,
        "sample": 0,
        "prompt": "",
        "answer": target if text is None else text,
        "reasoning": "",
        "stopped": True,
        "num_tokens": 1,
    }
    if suite.config.kind is SuiteKind.choices:
        choice = {"logprob": -1.0, "num_tokens": 1, "num_bytes": 1, "merged": False}
        theirs = {"lm_eval": {"logprob": -1.0, "num_tokens": 1}} if suite.config.compat.value == "lm_eval" else {}
        record["choices"] = [{**choice, **theirs, "text": text} for text in entry.choices]
    return record
