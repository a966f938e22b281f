"""The stages before the last: rows, filters, split, examples, mix; each from the cache where it is there."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.automatic import held_out_rows, stays_in_training
from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import DataConfig, OnBadRow, Order, Role
from sft_cli.config.schema.fields import Auto
from sft_cli.data.formats.unread_columns import Account
from sft_cli.data.lengths import Lengths
from sft_cli.data.mixing import epoch_draw, holdout
from sft_cli.data.mixing.epoch_draw import Draw, Pool
from sft_cli.data.mixing.mix_report import Tag
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError, raise_all
from sft_cli.prepare import encode_stage, filter_stage, rows_stage, write_stage
from sft_cli.prepare.encode_stage import Encoded, Rules
from sft_cli.prepare.filtered_rows import Cleaned
from sft_cli.prepare.write_stage import Part
from sft_cli.utils import workers

SHOWN = 5
"""Kinds of bad rows told at once."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[\d,]+")
"""What a sentence says of one row alone: texts between quotation marks, and numbers."""


@dataclass(frozen=True)
class Made:
    """What the stages made.

    Attributes:
        parts: The stores, in the order of the mix, a source's own held-out rows behind its training rows.
        pools: The usable training rows of every source.
        tags: Their tags, by source.
        usable: Their numbers in the store of the source, by source.
        draw: How often each of them is in an epoch.
        formats: Format of every source.
        accounts: Columns of every source that nothing reads, or that are left out on purpose.
        reports: What the filters reported.
        lengths: How long the rows are.
    """

    parts: list[Part]
    pools: list[Pool]
    tags: list[dict[str, Tag]]
    usable: dict[str, NDArray[np.int64]]
    draw: Draw
    formats: dict[str, str]
    accounts: dict[str, Account]
    reports: list[dict[str, Any]]
    lengths: Lengths

    def example_starts(self) -> NDArray[np.int64]:
        """``(rows + 1,)``: number in the training split of the first example of every pool's row."""
        counts = [np.zeros(1, np.int64)]
        train = {part.source: part for part in reversed(self.parts)}
        for pool in self.pools:
            part, numbers = train[pool.name], self.usable[pool.name]
            examples = np.zeros(len(part.rows.store), np.int64)
            examples[part.encoded.column("row")] = part.encoded.column("examples")
            counts.append(np.where(part.copies[numbers] > 0, examples[numbers], 0))
        return np.cumsum(np.concatenate(counts))


@dataclass(frozen=True)
class _Side:
    """A store with the rows that take part."""

    source: str
    own: bool
    rows: Cleaned
    chosen: NDArray[np.bool_]
    held_out: NDArray[np.bool_]


def run(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate, inputs: Mapping[str, Any]) -> Made:
    """All stages before the last.

    Raises:
        SftError: A source cannot be read, or a row stops the run.
    """
    data, seed, processes = config.data, config.trainer.seed, workers.count(config.data.workers)
    read = {
        name: rows_stage.read(source, name, config.template.input_separator, seed, inputs["rows"][name], processes)
        for name, source in data.mix.items()
    }
    sides = [
        (name, own, filter_stage.Side(store, own, data.mix[name].priority))
        for name, found in read.items()
        for own, store in ((False, found.train), (True, found.validation))
        if store is not None
    ]
    cleaned, reports = filter_stage.clean(
        [side for _, _, side in sides], filter_stage.filled(config), inputs["clean"], processes
    )
    chosen = _select([(name, own, rows) for (name, own, _), rows in zip(sides, cleaned, strict=True)], data, seed)
    if data.on_bad_row is OnBadRow.error:
        _refuse(error for side in chosen for error in write_stage.unreadable(side.rows, side.chosen))
    examples = [_encode(side, config, tokenizer, template, inputs["encode"], processes) for side in chosen]
    measured = [(side.rows, made, side.chosen) for side, made in zip(chosen, examples, strict=True)]
    context = read_context_length(config.model.path, config.model.revision)
    lengths = write_stage.measure(measured, config.trainer.max_length, context)
    _refuse(write_stage.too_long(lengths, data))
    usable = {side.source: _usable(side, made) for side, made in zip(chosen, examples, strict=True) if not side.own}
    training = [(side, made) for side, made in zip(chosen, examples, strict=True) if not side.own]
    pools = [_pool(side, made, usable[side.source], data) for side, made in training]
    tags = [_tags(made, usable[side.source]) for side, made in training]
    draw = epoch_draw.draw(data, pools, seed)
    copies = {pool.name: draw.copies(number) for number, pool in enumerate(pools)}
    parts = [
        Part(side.source, side.rows, made, side.chosen, side.held_out, _copies(side, usable, copies))
        for side, made in zip(chosen, examples, strict=True)
    ]
    names = {name: found.format for name, found in read.items()}
    accounts = {name: found.account for name, found in read.items()}
    return Made(parts, pools, tags, usable, draw, names, accounts, reports, lengths)


def _select(sides: Sequence[tuple[str, bool, Cleaned]], data: DataConfig, seed: int) -> list[_Side]:
    """Which rows of every store take part, and which of them are held out."""
    chosen = [_chosen(name, own, rows, data, seed) for name, own, rows in sides]
    own_validation = {name for name, own, _ in sides if own}
    trained = {name for name in data.mix if name in own_validation or stays_in_training(data, name)}
    numbers = {name: holdout.TRAINED if name in trained else i for i, name in enumerate(data.mix)}
    taken = [mask & rows.kept & (not own) for mask, (_, own, rows) in zip(chosen, sides, strict=True)]
    keys = [rows.store.digests("prompt")[mask] for mask, (_, _, rows) in zip(taken, sides, strict=True)]
    sources = np.concatenate(
        [np.full(int(mask.sum()), numbers[name]) for mask, (name, _, _) in zip(taken, sides, strict=True)]
    )
    held = holdout.hold_out(
        np.concatenate(keys),
        _groups([rows for _, _, rows in sides], taken),
        sources,
        0.0 if isinstance(data.val_fraction, Auto) else data.val_fraction,
        held_out_rows(data, int((sources >= 0).sum())),
        seed,
    )
    found, at = [], 0
    for mask, take, (name, own, store) in zip(chosen, taken, sides, strict=True):
        held_out = np.full(len(mask), own)
        held_out[take] = held[at : (at := at + int(take.sum()))]
        found.append(_Side(name, own, store, mask, held_out))
    return found


def _chosen(name: str, own: bool, rows: Cleaned, data: DataConfig, seed: int) -> NDArray[np.bool_]:
    """``(rows,)``: the rows that are wanted, at most max_rows of them; rows that cannot be used are among them."""
    there = rows.kept | ~(rows.store.good() | rows.store.left_out())
    chosen = np.zeros(len(there), np.bool_)
    limit = None if own else data.mix[name].max_rows
    chosen[there] = epoch_draw.choose(rows.store.digests("content")[there], limit, seed, name)
    return chosen


def _groups(stores: Sequence[Cleaned], taken: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """``(rows,)`` of the taken rows: number of what stays together (a tree, a cluster of near duplicates), or -1."""
    trees = np.concatenate([rows.store.digests("group")[mask] for rows, mask in zip(stores, taken, strict=True)])
    _, groups = np.unique(trees, return_inverse=True)
    groups = np.where(trees == b"", -1, groups).astype(np.int64)
    starts = np.cumsum([0, *(int(mask.sum()) for mask in taken)])
    by_step: dict[str, NDArray[np.int64]] = {}
    for store, mask, start in zip(stores, taken, starts, strict=False):
        place = np.cumsum(mask) - 1 + start
        for name, numbers, clusters in store.clusters():
            there = mask[numbers]
            by_step.setdefault(name, np.full(len(groups), -1, np.int64))[place[numbers[there]]] = clusters[there]
    for clusters in by_step.values():
        alone = np.where(groups < 0, len(groups) + np.arange(len(groups)), groups)
        groups = holdout.joined(alone, clusters)
    return groups


def _encode(
    side: _Side,
    config: Config,
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    known: Mapping[str, Any],
    processes: int,
) -> Encoded:
    """The examples of a store's chosen rows; a row that must stop the run stops it."""
    source, data = config.data.mix[side.source], config.data
    replay = source.role is Role.replay
    # A template is sent to processes without what this one has compiled of it.
    rules = Rules(tokenizer, replace(template), data, config.trainer.max_length, replay, source.loss_weight)
    known = {**known, "replay": replay, "loss_weight": source.loss_weight}
    numbers = np.flatnonzero(side.chosen & side.rows.kept)

    def judge(problems: Iterable[str]) -> None:
        _refuse(write_stage.fatal(problems, data))

    return encode_stage.encode(side.source, side.rows, numbers, rules, known, processes, judge)


def _usable(side: _Side, made: Encoded) -> NDArray[np.int64]:
    """Numbers of the training rows that became examples."""
    numbers = made.column("row")
    return numbers[(made.column("examples") > 0) & ~side.held_out[numbers]]


def _pool(side: _Side, made: Encoded, usable: NDArray[np.int64], data: DataConfig) -> Pool:
    """What the mix needs to know about the usable rows."""
    there = np.isin(made.column("row"), usable, assume_unique=True)
    names = {stage.difficulty for stage in data.stages if stage.order is Order.by_difficulty}
    return Pool(
        name=side.source,
        source=data.mix[side.source],
        keys=side.rows.store.digests("content")[usable],
        trained_tokens=made.column("trained")[there],
        lengths=made.column("tokens")[there],
        scores={name: values[there] for name, values in made.scores(sorted(names)).items()},
    )


def _tags(made: Encoded, usable: NDArray[np.int64]) -> dict[str, Tag]:
    """The tags of the usable rows."""
    there = np.isin(made.column("row"), usable, assume_unique=True)
    return {tag: Tag(tuple(values), codes[there]) for tag, (values, codes) in made.tags().items()}


def _copies(
    side: _Side, usable: Mapping[str, NDArray[np.int64]], copies: Mapping[str, NDArray[np.int32]]
) -> NDArray[np.int64]:
    """``(rows,)``: times each row is in an epoch; a held-out row is there once."""
    found = (side.chosen & side.held_out).astype(np.int64)
    if not side.own:
        found[usable[side.source]] = copies[side.source]
    return found


def _refuse(problems: Iterable[SftError]) -> None:
    """Tell the kinds of problems, each with its first row and the number of rows like it."""
    first: dict[str, SftError] = {}
    like: Counter[str] = Counter()
    for problem in problems:
        kind = _kind(problem)
        like[kind] += 1
        if kind in first or len(first) < SHOWN:
            first.setdefault(kind, problem)
    told = [_told(problem, like[kind] - 1) for kind, problem in first.items()]
    if more := sum(number for kind, number in like.items() if kind not in first):
        told[-1] = SftError(
            where=told[-1].where, problem=f"{told[-1].problem} (and {more} other rows)", fix=told[-1].fix
        )
    raise_all(told)


def _kind(problem: SftError) -> str:
    """What problems have in common that differ in what they quote and count alone."""
    reason = problem.reason if isinstance(problem, RowError) else ""
    return f"{reason}: {_QUOTED.sub('', problem.problem)}"


def _told(problem: SftError, like: int) -> SftError:
    """A problem, and how many rows more have it."""
    more = f" (and {like} more row{'s' * (like != 1)})" if like else ""
    return SftError(where=problem.where, problem=f"{problem.problem}{more}", fix=problem.fix)
