"""Run the stages before the last: rows, filters, selection, examples, mix. Finished stages come from the cache."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.automatic import held_out_rows, stays_in_training
from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import DataConfig, Order, Role
from sft_cli.config.schema.fields import Auto
from sft_cli.data.formats.unread_columns import UnreadColumns
from sft_cli.data.lengths import RowLengths
from sft_cli.data.mixing import epoch_draw, holdout
from sft_cli.data.mixing.epoch_draw import EpochDraw, Pool
from sft_cli.data.mixing.mix_report import Tag
from sft_cli.data.row_errors import RowError
from sft_cli.prepare import encode_stage, filter_stage, rows_stage, write_stage
from sft_cli.prepare.encode_stage import EncodedSource, EncodeRules
from sft_cli.prepare.refused_rows import RefusedRows
from sft_cli.prepare.source_split import SourceSplit
from sft_cli.prepare.tagged_holdout import tagged_rows
from sft_cli.utils import workers


@dataclass(frozen=True)
class PipelineResult:
    """The results of the stages before the last.

    Attributes:
        splits: The splits, in the order of the mix; a source's own held-out rows follow its training rows.
        draw: How often each usable row occurs in an epoch.
        formats: Format of every source.
        unread: Per source the unread and the ignored columns.
        reports: Reports of the filters.
        lengths: Lengths of the rows.
    """

    splits: list[SourceSplit]
    draw: EpochDraw
    formats: dict[str, str]
    unread: dict[str, UnreadColumns]
    reports: list[dict[str, Any]]
    lengths: RowLengths

    @property
    def training(self) -> list[SourceSplit]:
        """The training splits, one per source."""
        return _training(self.splits)

    def example_starts(self) -> NDArray[np.int64]:
        """Return ``(rows + 1,)`` the number of the first example of every usable row in the training split."""
        counts = [np.zeros(1, np.int64)]
        for split in self.training:
            examples = np.zeros(len(split.store), np.int64)
            examples[split.encoded.column("row")] = split.encoded.column("examples")
            counts.append(np.where(split.copies[split.usable] > 0, examples[split.usable], 0))
        return np.cumsum(np.concatenate(counts))


def run_stages(
    config: Config, tokenizer: ChatTokenizer, template: ChatTemplate, inputs: Mapping[str, Any]
) -> PipelineResult:
    """Run all stages before the last.

    Args:
        config: The configuration of the run.
        tokenizer: Its tokenizer.
        template: The chat template that renders the rows.
        inputs: The ``manifest.preparation_inputs`` of these.

    Raises:
        SftError: A source cannot be read, or a row stops the run.
    """
    data, seed, processes = config.data, config.trainer.seed, workers.count(config.data.workers)
    converted = {
        name: rows_stage.convert_source(
            source, name, config.template.input_separator, seed, inputs["rows"][name], processes
        )
        for name, source in data.mix.items()
    }
    splits = [
        SourceSplit(name, data.mix[name], is_validation, store)
        for name, rows in converted.items()
        for is_validation, store in ((False, rows.train), (True, rows.validation))
        if store is not None
    ]
    reports = filter_stage.run_filters(splits, filter_stage.resolve_scorer_model(config), inputs["clean"], processes)
    _select_rows(splits, data, seed)
    refused = RefusedRows(splits, data)
    for split in splits:
        split.encoded = _encode(split, config, tokenizer, template, inputs["encode"], processes, refused.check_part)
    context = read_context_length(config.model.path, config.model.revision)
    lengths = write_stage.measure_lengths(splits, config.trainer.max_length, context)
    refused.check(lengths)
    draw = _draw_epoch(splits, data, seed)
    formats = {name: rows.format for name, rows in converted.items()}
    unread = {name: rows.unread for name, rows in converted.items()}
    return PipelineResult(splits, draw, formats, unread, reports, lengths)


def _training(splits: Sequence[SourceSplit]) -> list[SourceSplit]:
    """Return the training splits."""
    return [split for split in splits if not split.is_validation]


def _select_rows(splits: Sequence[SourceSplit], data: DataConfig, seed: int) -> None:
    """Set the rows of every split that take part, and those of them that are held out."""
    for split in splits:
        split.chosen = _sample(split, seed)
    candidates = [split.chosen & split.rows.kept & (not split.is_validation) for split in splits]
    with_validation = {split.source for split in splits if split.is_validation}
    trained = {name for name in data.mix if name in with_validation or stays_in_training(data, name)}
    numbers = {name: holdout.STAYS_IN_TRAINING if name in trained else i for i, name in enumerate(data.mix)}
    pairs = list(zip(splits, candidates, strict=True))
    sources = np.concatenate([np.full(int(mask.sum()), numbers[split.source]) for split, mask in pairs])
    keys = np.concatenate([split.store.digests("prompt")[mask] for split, mask in pairs])
    groups = _groups(splits, candidates)
    held_out = tagged_rows(splits, candidates, data.holdout)
    if held_out.any():  # rows that are related to them are held out as well
        family = holdout.group_families(keys, groups)
        held_out = np.isin(family, family[held_out])
    rest = ~held_out
    held_out[rest] = holdout.hold_out(
        keys[rest],
        groups[rest],
        sources[rest],
        0.0 if isinstance(data.val_fraction, Auto) else data.val_fraction,
        held_out_rows(data, int((sources[rest] >= 0).sum())),
        seed,
    )
    start = 0
    for split, mask in pairs:
        split.held_out = np.full(len(mask), split.is_validation)
        split.held_out[mask] = held_out[start : (start := start + int(mask.sum()))]


def _sample(split: SourceSplit, seed: int) -> NDArray[np.bool_]:
    """Return ``(rows,)`` whether a row is among at most ``max_rows`` rows, which may include invalid ones."""
    present = split.rows.kept | ~(split.store.is_valid() | split.store.is_excluded())
    chosen = np.zeros(len(present), np.bool_)
    limit = None if split.is_validation else split.config.max_rows
    chosen[present] = epoch_draw.subsample(split.store.digests("content")[present], limit, seed, split.source)
    return chosen


def _groups(splits: Sequence[SourceSplit], candidates: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Return ``(candidates,)`` the number of the group that stays in one split (a tree, near duplicates), or -1."""
    trees = np.concatenate([split.store.digests("group")[mask] for split, mask in zip(splits, candidates, strict=True)])
    _, groups = np.unique(trees, return_inverse=True)
    groups = np.where(trees == b"", -1, groups).astype(np.int64)
    starts = np.cumsum([0, *(int(mask.sum()) for mask in candidates)])
    by_filter: dict[str, NDArray[np.int64]] = {}
    for split, mask, start in zip(splits, candidates, starts, strict=False):
        position = np.cumsum(mask) - 1 + start
        for name, rows, clusters in split.rows.clusters():
            taken = mask[rows]
            by_filter.setdefault(name, np.full(len(groups), -1, np.int64))[position[rows[taken]]] = clusters[taken]
    for clusters in by_filter.values():
        singletons = np.where(groups < 0, len(groups) + np.arange(len(groups)), groups)
        groups = holdout.merge_groups(singletons, clusters)
    return groups


def _encode(
    split: SourceSplit,
    config: Config,
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    inputs: Mapping[str, Any],
    processes: int,
    check_part: Callable[[int, list[RowError]], None],
) -> EncodedSource:
    """Return the encoded chosen rows of a split, from the cache if they are there.

    Args:
        split: The split, with its rows selected.
        config: The configuration of the run.
        tokenizer: Its tokenizer.
        template: The chat template.
        inputs: The inputs of the encoding of every source.
        processes: Number of worker processes.
        check_part: Called with the number of rows of each new part, and their errors.
    """
    source, data = split.config, config.data
    replay = source.role is Role.replay
    # replace() drops the compiled template of this process: workers compile their own.
    rules = EncodeRules(tokenizer, replace(template), data, config.trainer.max_length, replay, source.loss_weight)
    own_inputs = {**inputs, "replay": replay, "loss_weight": source.loss_weight}
    numbers = np.flatnonzero(split.chosen & split.rows.kept)
    return encode_stage.encode_rows(split.source, split.rows, numbers, rules, own_inputs, processes, check_part)


def _draw_epoch(splits: Sequence[SourceSplit], data: DataConfig, seed: int) -> EpochDraw:
    """Draw an epoch from the usable rows, and set the copies of the rows of every split."""
    training = _training(splits)
    for split in training:
        _set_usable(split, data, seed)
    mix = {name: source for name, source in data.mix.items() if name not in data.leave_out}
    pools = [split.pool for split in training if split.source in mix]
    draw = epoch_draw.draw_epoch(replace(data, mix=mix), pools, seed)
    draw = epoch_draw.with_empty_pools(draw, [split.source in mix for split in training])
    for split in splits:
        split.copies = (split.chosen & split.held_out).astype(np.int64)
    for number, split in enumerate(training):
        split.copies[split.usable] = draw.copies(number)
    return draw


def _set_usable(split: SourceSplit, data: DataConfig, seed: int) -> None:
    """Set the training rows that have examples, and their properties that the mix needs."""
    encoded = split.encoded
    numbers = encoded.column("row")
    is_usable = (encoded.column("examples") > 0) & ~split.held_out[numbers]
    if split.source in data.leave_out:
        is_usable[:] = False
    elif data.fraction < 1 and is_usable.any():
        keys = split.store.digests("content")[numbers[is_usable]]
        number = max(1, round(data.fraction * len(keys)))
        is_usable[is_usable] = epoch_draw.subsample(keys, number, seed, split.source)
    split.usable = numbers[is_usable]
    scores = {stage.difficulty for stage in data.stages if stage.order is Order.by_difficulty}
    split.pool = Pool(
        name=split.source,
        source=split.config,
        keys=split.store.digests("content")[split.usable],
        trained_tokens=encoded.column("trained_tokens")[is_usable],
        lengths=encoded.column("tokens")[is_usable],
        scores={name: values[is_usable] for name, values in encoded.scores(sorted(scores)).items()},
    )
    split.tags = {tag: Tag(tuple(values), codes[is_usable]) for tag, (values, codes) in encoded.tags().items()}
