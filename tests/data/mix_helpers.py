"""Make mixes and count the rows drawn from them."""

from mix_pools import pools

from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.mixing.epoch_draw import draw_epoch


def drawn(data: DataConfig, trained: dict[str, list[int]], seed: int = 0) -> list[list[int]]:
    """Return the number of rows, with repeats, per stage and source."""
    made = draw_epoch(data, pools(data, trained), seed)
    return [[int(copies.sum()) for copies in stage.copies] for stage in made.stages]


def mixed(**sources) -> dict[str, SourceConfig]:
    """Return sources by name, from their weights or other keys."""
    return {name: SourceConfig(**(of if isinstance(of, dict) else {"weight": of})) for name, of in sources.items()}
