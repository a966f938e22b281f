"""Prepare the rows of a run, or a sample, and summarize used, dropped and truncated rows and trained tokens."""

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
        prepared: The prepared data.
        whole: Whether they contain all rows of the run.
        scale: Rows of the run per prepared row.
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
        """Mean tokens per training example of an epoch."""
        split = self.prepared.manifest["splits"]["train"]
        return split["tokens"] / split["examples"]

    @property
    def trained_share(self) -> float:
        """Share of the training tokens that carries loss."""
        return self.prepared.manifest["splits"]["train"]["trained_share"]

    def held_out(self, config: Config) -> bool:
        """Return whether the run has held-out rows; a sample may be too small to contain any."""
        return len(self.prepared.validation) > 0 or (not self.whole and may_hold_out(config))


@contextmanager
def sample_data(config: Config, rows: int | None) -> Iterator[DataSample]:
    """Yield the run's prepared data if they exist, else up to ``rows`` rows of each source, prepared temporarily.

    Results of the stages before encoding stay in the cache, where ``sft prepare`` finds them.

    Args:
        config: The config of the run.
        rows: Most rows per source; None prepares all of them, as ``sft prepare`` does.

    Raises:
        SftError: A row, the template or a source is refused.
    """
    if rows is None or find_prepared(config) is not None:
        with suppress_output():
            prepared = prepare_data(config)
        yield DataSample(prepared, True, 1.0)
        return
    (cache_home() / "prepared").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".check-", dir=cache_home() / "prepared") as folder:
        with suppress_output():
            prepared = prepare_data(with_row_limit(config, rows, Path(folder) / "sample"))
        yield _scaled(config, prepared)


@contextmanager
def suppress_output() -> Iterator[io.StringIO]:
    """Redirect standard output to a buffer within the block, and yield the buffer."""
    output = io.StringIO()
    with redirect_stdout(output):
        yield output


def with_row_limit(config: Config, rows: int, directory: Path) -> Config:
    """Return the config with at most ``rows`` rows of each source and another directory for prepared data.

    Groups are not held out: a sample may have no row of them.
    """
    mix = {
        name: replace(source, max_rows=rows if source.max_rows is None else min(rows, source.max_rows))
        for name, source in config.data.mix.items()
    }
    return replace(config, prepared_dir=str(directory), data=replace(config.data, mix=mix, holdout={}))


def _scaled(config: Config, prepared: PreparedData) -> DataSample:
    """Return the sample with its scale; a mix by weights is assumed to grow in proportion to its rows."""
    total, sampled = Counter[str](), Counter[str]()
    with open(prepared.directory / "ledger.jsonl", encoding="utf-8") as file:
        for entry in map(json.loads, file):
            if entry["split"] == "train":  # a source's own held-out rows are never sampled
                total[entry["source"]] += 1
                sampled[entry["source"]] += entry["fate"] != "not_sampled"
    limits = {name: source.max_rows for name, source in config.data.mix.items()}
    wanted = sum(min(count, limits[name] or count) for name, count in total.items())
    available = sum(sampled.values())
    return DataSample(prepared, wanted == available, wanted / max(1, available))


def data_result(sample: DataSample) -> CheckResult:
    """Return the check of the rows: a summary line, and the reasons for dropped rows."""
    manifest = sample.prepared.manifest
    counts = [_counts(source) for source in manifest["sources"].values()]
    used, dropped, truncated = (sum(count[name] for count in counts) for name in ("used", "dropped", "truncated"))
    split = manifest["splits"]["train"]
    what = "all rows" if sample.whole else f"a sample of {1 / sample.scale:.0%} of the rows"
    text = (
        f"{what}: {used:,} used, {dropped:,} dropped, {truncated:,} truncated; {split['tokens']:,} tokens,"
        f" {sample.trained_share:.0%} carry loss; the longest example has {sample.prepared.longest_example:,}"
    )
    more = [f"dropped {count:,}: {reason}" for reason, count in manifest["dropped"].items()]
    for name, source in manifest["sources"].items():
        more += [f"{name}: not read: {', '.join(source['not_read'])}"] if source["not_read"] else []
    warning = trained_share.unusual_share(manifest)
    if not warning:
        return ok("data", text, more=more)
    look = "" if sample.whole else "sft check --rows all …, then "
    place = sample.prepared.directory if sample.whole else "DIR"
    return warn("data", text, f"{warning}; inspect them: {look}sft inspect {place} --worst lowest_share", more)


def _counts(source: Mapping[str, Any]) -> dict[str, int]:
    """Return the row counts of a source, 0 where the manifest has none."""
    return {name: source.get(name, 0) for name in ("used", "dropped", "truncated")}
