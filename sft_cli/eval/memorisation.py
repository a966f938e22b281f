"""The suite of memorisation: the model continues answers from their first half. Does not import torch."""

import random
import shlex
from collections.abc import Iterator
from dataclasses import replace

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import SuiteConfig, SuiteFormat, SuiteKind
from sft_cli.data.prepared import PreparedData, Split
from sft_cli.errors import SftError
from sft_cli.eval.evaluated import read_stop_ids
from sft_cli.eval.exact_match import last_trained_span
from sft_cli.eval.select_rows import stored_run_data
from sft_cli.run_dir import RunDir
from sft_cli.scoring.types import Item
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.memorisation import HELD_OUT, TRAINED
from sft_cli.utils.hashing import json_digest

ITEMS = 100
"""Rows of each split if neither the suite nor ``eval.limit`` sets a number."""
TOKENS = 64
"""Most tokens of an answer that are to be continued, if the suite sets none."""


def memorisation_suites(run: RunDir | None, config: EvalConfig) -> list[LoadedSuite]:
    """Return the chosen suites of memorisation, with rows that the run was trained on and rows that it held out.

    Args:
        run: The run; None for a model without one, whose rows are unknown.
        config: The settings of the evaluation.

    Raises:
        SftError: The training data are unknown, or no longer exist.
    """
    chosen = {name: suite for name, suite in config.suites.items() if suite.kind is SuiteKind.memorisation}
    if not chosen:
        return []
    if run is None:
        where, problem = f"eval.suites.{next(iter(chosen))}", "only a run names the rows that its model was trained on"
        raise SftError(where=where, problem=problem, fix="sft eval RUN eval=memorisation")
    prepared = stored_run_data(run)
    if prepared is None:
        raise SftError(
            where="eval.suites." + next(iter(chosen)),
            problem="the training data of the run no longer exist, so that no trained answer is known",
            fix=f"sft eval {shlex.quote(str(run.path))} eval=heldout, which prepares them again",
        )
    return [_suite(run, prepared, name, suite, config.limit) for name, suite in chosen.items()]


def _suite(run: RunDir, prepared: PreparedData, name: str, suite: SuiteConfig, limit: int | None) -> LoadedSuite:
    """Return a suite with its items."""
    number = min(size for size in (suite.limit or ITEMS, limit) if size is not None)
    suite = replace(suite, format=SuiteFormat.text, max_new_tokens=suite.max_new_tokens or TOKENS)
    decode = load_tokenizer(str(run.tokenizer)).decode_batch
    stops = frozenset(read_stop_ids(run.result))
    items = list[SuiteItem]()
    for label, split in ((TRAINED, prepared.train), (HELD_OUT, prepared.validation)):
        order = random.Random(suite.seed).sample(range(len(split)), len(split))
        found = _continued(split, order, stops, suite.max_new_tokens or TOKENS)
        for (index, prompt, rest), _ in zip(found, range(number), strict=False):
            texts = decode([prompt, rest])
            item = Item(
                id=f"{label}-{index}",
                messages=({"role": "user", "content": texts[0]},),
                target=(texts[1],),
                tags={"split": label},
            )
            items.append(SuiteItem(item, split.where(index), prompt_ids=tuple(prompt), expected_ids=tuple(rest)))
    fingerprint = json_digest([prepared.manifest["content"], suite.seed])
    return LoadedSuite(name, suite, tuple(items), fingerprint, len(items), len(items), str(prepared.directory))


def _continued(
    split: Split, order: list[int], stops: frozenset[int], longest: int
) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield the number of an example, its ids up to the half of its last answer, and the rest of the answer."""
    for index in order:
        tokens = split.tokens(index)
        span = last_trained_span(tokens.weights)
        if span is None:
            continue
        answer = [id for id in tokens.input_ids[span[0] : span[1]].tolist() if id not in stops]
        if len(answer) >= 2:
            half = len(answer) // 2
            yield index, [*tokens.input_ids[: span[0]].tolist(), *answer[:half]], answer[half : half + longest]
