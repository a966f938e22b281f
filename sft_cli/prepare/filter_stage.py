"""Run the filters of ``clean.steps`` in order over the rows of all sources (second stage)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean import registry
from sft_cli.clean.base import BATCH, Finding, Findings
from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.schema.config import Config
from sft_cli.data import codec
from sft_cli.data.arrow_io import ArrowWriter
from sft_cli.prepare import stage_cache
from sft_cli.prepare.filtered_rows import FilteredRows, FilterResult, RowReader, combined_reader
from sft_cli.prepare.source_split import SourceSplit
from sft_cli.progress import progress
from sft_cli.types import Conversation
from sft_cli.utils import workers
from sft_cli.utils.atomic import fsync
from sft_cli.utils.hashing import code_digest


class FindingWriter:
    """Writes findings to ``found.arrow``, and replaced rows to ``replaced.arrow`` if there are any."""

    def __init__(self, directory: Path) -> None:
        import pyarrow

        number, text = pyarrow.int64(), pyarrow.string()
        self._finding_schema = pyarrow.schema(
            {"row": number, "reason": text, "detail": text, "score": pyarrow.float64(), "cluster": number}
        )
        self._replaced_schema = pyarrow.schema({"row": number, "payload": pyarrow.binary()})
        self._directory, self._last = directory, -1
        (directory / "replaced.arrow").unlink(missing_ok=True)  # of an interrupted run
        self._findings = ArrowWriter(directory / "found.arrow", self._finding_schema, compressed=False)
        self._rewritten: ArrowWriter | None = None

    def __enter__(self) -> "FindingWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._findings.close()
        fsync(self._directory / "found.arrow")
        if self._rewritten is not None:
            self._rewritten.close()
            fsync(self._directory / "replaced.arrow")

    def write(self, finding: Finding, row: int) -> None:
        """Append one finding about a row."""
        assert row > self._last, "findings must be in ascending order of row"
        self._last = row
        self._findings.add((row, finding.reason, finding.detail, finding.score, finding.cluster))
        if finding.conversation is not None:
            if self._rewritten is None:
                file = self._directory / "replaced.arrow"
                self._rewritten = ArrowWriter(file, self._replaced_schema, compressed=False)
            self._rewritten.add((row, codec.encode_conversation(finding.conversation)))


CODE = ("clean", "utils.languages", "utils.words", "data.arrow_io", "prepare.filter_stage", "prepare.filtered_rows")
"""Modules that affect the findings of filters."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "near_duplicates": ("rensa",),
    "pii": ("phonenumbers", "python-stdnum"),
    "language": ("py3langid",),
    "perplexity": ("torch", "transformers"),
}
"""Packages whose rules, tables or models affect the findings of filters."""
Argument = TypeVar("Argument")
Result = TypeVar("Result")


def resolve_scorer_model(config: Config) -> CleanConfig:
    """Return the filters of a run; unless another is set, the scoring model is the one to be trained."""
    if config.clean.perplexity.model is not None:
        return config.clean
    return replace(config.clean, perplexity=replace(config.clean.perplexity, model=config.model.path))


def clean_inputs(config: CleanConfig) -> list[dict[str, Any]]:
    """Return the inputs of the filters other than the rows, one entry per step."""
    code = code_digest(*CODE)
    return [
        {
            "filter": step,
            "rules": registry.filter_inputs(step, config),
            "libraries": {package: _version(package) for package in LIBRARIES.get(step, ())},
            "code": code,
        }
        for step in config.steps
    ]


def _version(package: str) -> str | None:
    """Return the version of an optional package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run_filters(
    splits: Sequence[SourceSplit], config: CleanConfig, inputs: Sequence[dict[str, Any]], processes: int
) -> list[dict[str, Any]]:
    """Run the filters over the stores of all splits, and set ``rows`` of every split.

    Args:
        splits: The splits, in the order of the mix.
        config: The filters.
        inputs: Their ``clean_inputs``.
        processes: Number of worker processes.

    Returns:
        Name, dropped rows by reason, and report of each filter.
    """
    stores = [split.store for split in splits]
    kept = np.concatenate([np.zeros(0, np.bool_), *(store.is_valid() for store in stores)])
    before: Any = [
        [split.store.directory.name, split.source, split.is_validation, split.config.priority] for split in splits
    ]
    results: list[FilterResult] = []
    reports: list[dict[str, Any]] = []
    for name, rules in zip(config.steps, inputs, strict=True):
        own_inputs = {"before": before, **rules}
        with stage_cache.stage_dir("clean", own_inputs) as (directory, is_finished):
            if not is_finished:
                rows = _StoredRows(splits, np.flatnonzero(kept), combined_reader(stores, results), processes, name)
                stage_cache.mark_done(directory, {"inputs": own_inputs, **_run_filter(name, rows, config, directory)})
        result = FilterResult(name, registry.score_name(name, config), stage_cache.final_dir(directory))
        results.append(result)
        kept[result.dropped] = False
        stored = stage_cache.load_result(result.directory)
        reports.append({"filter": name, "dropped": stored["dropped"], "report": stored["report"]})
        before = result.directory.name
    start = 0
    for split in splits:
        stop = start + len(split.store)
        split.rows = FilteredRows(split.store, start, kept[start:stop], tuple(results))
        start = stop
    return reports


@dataclass(frozen=True)
class _StoredRows:
    """The remaining rows, read from their stores; implements ``clean.base.RowView``.

    Attributes:
        splits: The splits, in the order of the mix.
        numbers: Numbers of the remaining rows, over all stores.
        reader: Reader of the rows.
        processes: Number of worker processes.
        name: Name of the filter, for the progress bar.
    """

    splits: Sequence[SourceSplit]
    numbers: NDArray[np.int64]
    reader: RowReader
    processes: int
    name: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Conversation:
        return next(self.reader.conversations(self.numbers[index : index + 1]))

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """``(rows,)``: whether a row comes from a source's own held-out rows."""
        return self._per_row([split.is_validation for split in self.splits], np.bool_)

    @property
    def priority(self) -> NDArray[np.int64]:
        """``(rows,)``: priority of the row's source."""
        return self._per_row([split.config.priority for split in self.splits], np.int64)

    def _per_row(self, values: Sequence[Any], kind: Any) -> NDArray[Any]:
        """Return for each row the value of its store."""
        lengths = [len(split.store) for split in self.splits]
        return np.repeat(np.asarray(values, kind), lengths)[self.numbers]

    def map(
        self, function: Callable[[Sequence[Conversation], Argument], Sequence[Result]], argument: Argument
    ) -> Iterator[tuple[int, Sequence[Result]]]:
        """Yield ``function`` over all rows in batches, computed in worker processes; see ``RowView.map``."""
        tasks = [(start, self.numbers[start : start + BATCH]) for start in range(0, len(self), BATCH)]
        processes = workers.worth(len(self), self.processes)
        with progress(f"clean     {self.name}", len(self)) as bar:
            for start, results in workers.run(
                _Mapper, (self.reader, function, argument), _Mapper.apply, tasks, processes
            ):
                yield start, results
                bar.advance(len(results))


class _Mapper:
    """Applies a function to batches of rows in a worker process."""

    def __init__(
        self, reader: RowReader, function: Callable[[Sequence[Conversation], Any], Sequence[Any]], argument: Any
    ):
        self._reader, self._function, self._argument = reader, function, argument

    def apply(self, task: tuple[int, NDArray[np.int64]]) -> tuple[int, Sequence[Any]]:
        """Return the number of the batch's first row, and one result per row."""
        start, numbers = task
        return start, self._function(list(self._reader.conversations(numbers)), self._argument)


def _run_filter(name: str, rows: _StoredRows, config: CleanConfig, directory: Path) -> dict[str, Any]:
    """Write the findings of a filter, and return its drops by reason and its report."""
    dropped: Counter[str] = Counter()
    report: dict[str, Any] | None = None

    def findings() -> Findings:
        """Yield the findings of the filter and keep its report."""
        nonlocal report
        report = yield from registry.run_filter(name, rows, config)
        return None

    with FindingWriter(directory) as writer:
        for finding in findings():
            writer.write(finding, int(rows.numbers[finding.row]))
            dropped.update([finding.reason] if finding.reason is not None else [])
    return {"dropped": dict(sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))), "report": report}
