"""Compute the rows that each source gives to each stage of an epoch, from the sizes of the sources."""

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import DataConfig, StageConfig, StoppingStrategy, Strategy
from sft_cli.data.mixing.apportionment import Quotas, at_least_one
from sft_cli.errors import SftError

MAX_ROWS = 1_000_000_000
"""Most rows of an epoch: its list of examples, 8 bytes each, is built in memory."""


def compute_quotas(data: DataConfig, num_rows: NDArray[np.int64], trained_tokens: NDArray[np.int64]) -> Quotas:
    """Return the rows that the sources, in the order of ``data.mix``, give to each stage of an epoch.

    The weights (``proportional``) or ``data.stopping_strategy`` decide the number of rows of an epoch. Sources with
    ``epochs`` give their passes; the other rows are divided among the stages by their ``share``, and within a stage
    among its sources by the strategy. The end of a mix by shares is computed over all stages together. The passes of a
    source with ``epochs`` are divided among its stages, by share times its weight there.

    Args:
        data: Mix, strategy, stopping strategy and stages.
        num_rows: ``(sources,)`` available rows.
        trained_tokens: ``(sources,)`` their trained tokens.

    Raises:
        SftError: A source has no rows for its share, ``data.total_rows`` is too small, or an epoch is too large.
    """
    stages = data.stages or [StageConfig()]
    fixed = _epochs(data) > 0
    weights = np.array([_stage_weights(data, stage) for stage in stages])
    _refuse_empty(data, fixed, num_rows, trained_tokens)
    parts = np.array([_stage_shares(data, row, num_rows, trained_tokens) for row in np.where(fixed, 0.0, weights)])
    share = np.array([stage.share for stage in stages])
    flow = parts * share[:, None]
    flow /= flow.sum() or 1.0
    spread = weights * share[:, None]
    assert (spread.sum(0) > 0).all(), "a source takes part in no stage, which config.check refuses"
    fixed_rows = spread / spread.sum(0) * np.where(fixed, at_least_one(_epochs(data) * num_rows, num_rows), 0)
    exact = None
    if data.stopping_strategy is StoppingStrategy.total_rows:
        exact = _remaining_rows(data, int(fixed_rows.sum().round()))
        total = float(exact)
    elif data.strategy is Strategy.proportional:
        total = float(np.where(fixed, 0.0, _source_weights(data) * _sizes(data, num_rows)).sum())
    else:
        total = _until_exhausted(flow.sum(0), num_rows, data.stopping_strategy)
    _refuse_too_many_rows(total + float(fixed_rows.sum()))
    return Quotas(flow * total + fixed_rows, _stated_passes(data, fixed, num_rows), fixed, exact)


def _stage_weights(data: DataConfig, stage: StageConfig) -> list[float]:
    """Return the weight of every source in a stage; 0 for one that takes no part."""
    return [stage.mix.get(name, 0.0) if stage.mix else source.weight for name, source in data.mix.items()]


def _sizes(data: DataConfig, num_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(sources,)`` rows that count in shares by size, at most ``cap`` each.

    FLAN's mixing rate maximum K (Wei et al. 2022, arXiv:2109.01652, section 2.4): rates proportional to min(rows, K).
    """
    caps = [source.cap for source in data.mix.values()]
    return np.array([n if cap is None else min(n, cap) for n, cap in zip(num_rows.tolist(), caps, strict=True)])


def _stage_shares(
    data: DataConfig, weights: NDArray[np.float64], num_rows: NDArray[np.int64], trained_tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return ``(sources,)`` shares of the rows of a stage, of sum 1, or all 0 if no source with a weight has rows.

    Temperature: rate_i proportional to (size_i * weight_i)^(1/T), T5's temperature-scaled mixing with its limit on the
        size (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2). Trained tokens: shares of tokens divided by the mean
        number of trained tokens in a row.

    Args:
        data: The strategy.
        weights: ``(sources,)`` weights in the stage.
        num_rows: ``(sources,)`` available rows.
        trained_tokens: ``(sources,)`` their trained tokens.
    """
    amount = weights.astype(np.float64)
    if data.strategy in (Strategy.proportional, Strategy.temperature):
        amount = amount * _sizes(data, num_rows)
    if data.strategy is Strategy.temperature:
        amount = np.where(amount > 0, (amount / (amount.max() or 1.0)) ** (1 / data.temperature), 0.0)
    if data.strategy is Strategy.trained_tokens:
        amount = amount * num_rows / np.maximum(trained_tokens, 1)
    return amount / (amount.sum() or 1.0)


def _until_exhausted(share: NDArray[np.float64], num_rows: NDArray[np.int64], stop: StoppingStrategy) -> float:
    """Return the rows after which the first source is exhausted, or the last one."""
    taking = share > 0
    reach = num_rows[taking] / share[taking]
    pick = np.min if stop is StoppingStrategy.first_exhausted else np.max
    return float(pick(reach)) if taking.any() else 0.0


def _remaining_rows(data: DataConfig, fixed_rows: int) -> int:
    """Return the rows of ``data.total_rows`` that are left for the sources without ``epochs``."""
    assert data.total_rows is not None, "config.check requires it"
    if data.total_rows <= fixed_rows:
        raise SftError(
            where="data.total_rows",
            problem=f"data.total_rows is {data.total_rows}, but the sources with epochs alone give {fixed_rows} rows",
            fix=f"data.total_rows={fixed_rows + 1} or more",
        )
    return data.total_rows - fixed_rows


def _refuse_too_many_rows(rows: float) -> None:
    """Refuse an epoch whose list of examples would be too large."""
    if rows > MAX_ROWS:
        raise SftError(
            where="data.mix",
            problem=f"an epoch would hold {rows:,.0f} rows, more than {MAX_ROWS:,}",
            fix="reduce epochs or weight of its sources, or data.total_rows; trainer.epochs=2 repeats the whole epoch",
        )


def _stated_passes(data: DataConfig, fixed: NDArray[np.bool_], num_rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(sources,)`` passes that the config sets, by ``epochs`` or proportional weights; else nan."""
    by_weights_only = (
        data.strategy is Strategy.proportional
        and data.stopping_strategy is not StoppingStrategy.total_rows
        and not data.stages
    )
    by_weight = _source_weights(data) * _sizes(data, num_rows) / np.maximum(num_rows, 1)
    return np.where(fixed, _epochs(data), by_weight if by_weights_only else np.nan)


def _source_weights(data: DataConfig) -> NDArray[np.float64]:
    """Return ``(sources,)`` weights outside of stages."""
    return np.array([source.weight for source in data.mix.values()], np.float64)


def _epochs(data: DataConfig) -> NDArray[np.float64]:
    """Return ``(sources,)`` configured passes; 0 where weight and strategy decide."""
    return np.array([source.epochs or 0.0 for source in data.mix.values()], np.float64)


def _refuse_empty(
    data: DataConfig, fixed: NDArray[np.bool_], num_rows: NDArray[np.int64], trained_tokens: NDArray[np.int64]
) -> None:
    """Refuse a source that has no rows for its share.

    Args:
        data: Mix and strategies.
        fixed: ``(sources,)`` whether ``epochs`` sets the passes.
        num_rows: ``(sources,)`` available rows.
        trained_tokens: ``(sources,)`` their trained tokens.
    """
    if data.strategy is Strategy.proportional and data.stopping_strategy is not StoppingStrategy.total_rows:
        return
    measure, missing = num_rows, "row"
    if data.strategy is Strategy.trained_tokens:
        measure, missing = trained_tokens, "trained token"
    for name, source_fixed, available in zip(data.mix, fixed, measure, strict=True):
        if not source_fixed and available == 0:
            raise SftError(
                where=f"data.mix.{name}",
                problem=f"the source has no {missing} left, so its share of the mix cannot be met",
                fix=f"remove {name} from data.mix, or keep more of its rows: data.mix.{name}.max_rows, clean.steps",
            )
