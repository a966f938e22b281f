"""The rows of a run, or a sample of them, prepared: what is used, dropped, cut, and how much of it carries loss."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sft_cli.check.results import CheckResult, ok, warn
from sft_cli.config.automatic import may_hold_out
from sft_cli.config.paths import cache_home
from sft_cli.config.schema.config import Config
from sft_cli.data import trained_share
from sft_cli.data.prepared import PreparedData
from sft_cli.prepare.prepare import find_prepared, prepare_data


@dataclass(frozen=True)
class DataSample:
    """Prepared rows.

    Attributes:
        prepared: Theirs.
        whole: Whether they are all rows of the run.
        scale: Rows of the run for each row that is here.
    """

    prepared: PreparedData
    whole: bool
    scale: float

    @property
    def examples(self) -> int:
        """Examples of an epoch, estimated from a sample."""
        return max(1, round(self.prepared.manifest["splits"]["train"]["examples"] * self.scale))

    @property
    def tokens_per_example(self) -> float:
        """Mean over the training examples of an epoch."""
        split = self.prepared.manifest["splits"]["train"]
        return split["tokens"] / split["examples"]

    @property
    def trained_share(self) -> float:
        """Share of the training tokens that carries loss."""
        return self.prepared.manifest["splits"]["train"]["trained_share"]

    def held_out(self, config: Config) -> bool:
        """Whether the run holds rows out; a sample may be too small to show it."""
        return len(self.prepared.validation) > 0 or (not self.whole and may_hold_out(config))

    @property
    def longest(self) -> int:
        """Tokens of the longest example that was looked at."""
        return int(max(self.prepared.train.lengths.max(), max(self.prepared.validation.lengths, default=0)))


@contextmanager
def sample_data(config: Config, rows: int | None) -> Iterator[DataSample]:
    """The run's prepared data if they are there, else so many rows of each source, prepared for the time of the body.

    What the stages before encoding made stays in the cache, where ``sft prepare`` finds it.

    Args:
        config: The run's.
        rows: Of each source; None prepares all of them, as ``sft prepare`` does.

    Raises:
        SftError: A row, the template or a source is refused.
    """
    if rows is None or (found := find_prepared(config)) is not None:
        with suppress_output():
            found = prepare_data(config)
        yield DataSample(found, True, 1.0)
        return
    (cache_home() / "prepared").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".check-", dir=cache_home() / "prepared") as folder:
        with suppress_output():
            made = prepare_data(with_row_limit(config, rows, Path(folder) / "sample"))
        yield _scaled(config, made)


@contextmanager
def suppress_output() -> Iterator[io.StringIO]:
    """Keep what is said to oneself: another command's lines are not this one's."""
    heard = io.StringIO()
    with redirect_stdout(heard):
        yield heard


def with_row_limit(config: Config, rows: int, directory: Path) -> Config:
    """The config with at most so many rows of each source, prepared elsewhere."""
    mix = {
        name: replace(source, max_rows=rows if source.max_rows is None else min(rows, source.max_rows))
        for name, source in config.data.mix.items()
    }
    return replace(config, prepared_dir=str(directory), data=replace(config.data, mix=mix))


def _scaled(config: Config, made: PreparedData) -> DataSample:
    """A sample, and what part of the run's rows it is; a mix by weights is taken to grow like its rows."""
    total, seen = Counter[str](), Counter[str]()
    with open(made.directory / "ledger.jsonl", encoding="utf-8") as file:
        for entry in map(json.loads, file):
            if entry["split"] == "train":  # a source's own held-out rows are never a sample
                total[entry["source"]] += 1
                seen[entry["source"]] += entry["fate"] != "not_sampled"
    limits = {name: source.max_rows for name, source in config.data.mix.items()}
    wanted = sum(min(count, limits[name] or count) for name, count in total.items())
    looked = sum(seen.values())
    return DataSample(made, wanted == looked, wanted / max(1, looked))


def data_result(found: DataSample) -> CheckResult:
    """The account of the rows in a line, and the reasons of what was lost."""
    manifest = found.prepared.manifest
    counts = [_counts(source) for source in manifest["sources"].values()]
    used, dropped, truncated = (sum(one[name] for one in counts) for name in ("used", "dropped", "truncated"))
    split = manifest["splits"]["train"]
    what = "all rows" if found.whole else f"a sample, 1 row of {found.scale:.3g}"
    text = (
        f"{what}: {used:,} used, {dropped:,} dropped, {truncated:,} truncated; {split['tokens']:,} tokens,"
        f" {found.trained_share:.0%} carry loss; the longest example has {found.longest:,}"
    )
    more = [f"dropped {count:,}: {reason}" for reason, count in manifest["dropped"].items()]
    for name, source in manifest["sources"].items():
        more += [f"{name}: not read: {', '.join(source['not_read'])}"] if source["not_read"] else []
    strange = trained_share.unusual_share(manifest)
    if not strange:
        return ok("data", text, more=more)
    look = "" if found.whole else "sft check --rows all …, then "
    place = found.prepared.directory if found.whole else "DIR"
    return warn("data", text, f"{strange}; look at some: {look}sft inspect {place} --worst lowest_share", more)


def _counts(source: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of a source's rows; one without rows has none of them."""
    return {name: source.get(name, 0) for name in ("used", "dropped", "truncated")}
