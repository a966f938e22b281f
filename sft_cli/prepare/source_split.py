"""Hold the state of one split of one source through the stages of preparation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.mixing.epoch_draw import Pool
from sft_cli.data.mixing.mix_report import Tag
from sft_cli.data.row_store import RowStore
from sft_cli.prepare.encode_stage import EncodedSource
from sft_cli.prepare.filtered_rows import FilteredRows


@dataclass(eq=False)
class SourceSplit:
    """The rows of one split of one source; each stage sets the fields that later stages read.

    Attributes:
        source: Name of the source in the mix.
        config: The source.
        is_validation: Whether these are the source's own held-out rows.
        store: The converted rows (rows stage).
        rows: The rows after the filters (filter stage).
        chosen: ``(rows,)`` whether a row takes part: it passed the filters, or is invalid, and is one of the
            ``max_rows`` that were sampled (selection).
        held_out: ``(rows,)`` whether a row is held out (selection).
        encoded: The examples of the chosen rows (encode stage).
        usable: Numbers of the training rows with examples (mix; training splits only).
        pool: Properties of the usable rows that the mix needs (mix; training splits only).
        tags: Tags of the usable rows (mix; training splits only).
        copies: ``(rows,)`` times a row occurs in an epoch, over all its stages; 1 for a held-out row (mix).
    """

    source: str
    config: SourceConfig
    is_validation: bool
    store: RowStore
    rows: FilteredRows = field(init=False)
    chosen: NDArray[np.bool_] = field(init=False)
    held_out: NDArray[np.bool_] = field(init=False)
    encoded: EncodedSource = field(init=False)
    usable: NDArray[np.int64] = field(init=False)
    pool: Pool = field(init=False)
    tags: Mapping[str, Tag] = field(init=False)
    copies: NDArray[np.int64] = field(init=False)
