"""Encode the rows of a source to proven examples, in parts, with the outcome of each row (fourth stage)."""

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.encode_result import EncodeResult
from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.data.arrow_io import write_table
from sft_cli.data.prepared_writer import example_table
from sft_cli.data.row_errors import RowError
from sft_cli.prepare import stage_cache
from sft_cli.prepare.filtered_rows import FilteredRows, RowReader
from sft_cli.prepare.row_outcomes import errors_of, outcome_table, row_outcome
from sft_cli.progress import progress
from sft_cli.types import Conversation
from sft_cli.utils import workers
from sft_cli.utils.atomic import write_atomic

CODE = (
    "chat", "utils.text", "data.arrow_io", "data.prepared_writer", "prepare.encode_stage", "prepare.row_outcomes",
)  # fmt: skip
"""Modules that affect the examples."""
RULES = ("train_on", "train_on_tool_calls", "train_on_tool_results", "train_on_reasoning", "no_loss_patterns",
         "thinking", "system", "override_system", "sanitize", "delimiters", "overflow")  # fmt: skip
"""Settings of ``data`` that affect the examples."""
CHUNK = 2000
"""Most rows per chunk."""
CHUNK_BYTES = 8 * 1024 * 1024
"""Stored bytes of a chunk: a chunk of long rows has fewer rows."""
SMALL_BYTES = 8 * 1024 * 1024
"""Stored bytes below which one process is fastest: starting a process takes as long as encoding half of them."""
GOLDENS_PER_KIND = 4
"""Golden prompts kept for each kind of rows of a source (see ``parity.conversation_kind``)."""
TRIES_PER_GOLDEN = 16
"""Rows of a kind that are tried for each golden prompt, since some rows have none."""


@dataclass(frozen=True)
class EncodeRules:
    """The rules by which the rows of one source become examples; sent to the worker processes.

    Attributes:
        tokenizer: The tokenizer.
        template: The chat template.
        data: The rules of what is trained.
        max_length: Maximum tokens of an example.
        replay: Whether documents that are too long are cut into pieces.
        loss_weight: Factor on every token's loss.
    """

    tokenizer: ChatTokenizer
    template: ChatTemplate
    data: DataConfig
    max_length: int
    replay: bool
    loss_weight: float

    def builder(self) -> ExampleBuilder:
        """Return the builder of examples by these rules."""
        return ExampleBuilder(
            self.tokenizer,
            self.template,
            self.data,
            self.max_length,
            split_documents=self.replay,
            loss_weight=self.loss_weight,
        )


class EncodedSource:
    """A finished stage.

    Attributes:
        stops: Stop tokens that end trained turns.
        goldens: The first golden prompts.
        weighted: Whether a token has a loss weight other than 0 and 1.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        parts = [json.loads(file.read_bytes()) for file in sorted(directory.glob("part-*.json"))]
        self.stops = sorted({stop for part in parts for stop in part["stops"]})
        self.goldens = _first_of_each_kind([golden for part in parts for golden in part["goldens"]])
        self.weighted = any(part["weighted"] for part in parts)

    def examples(self) -> Iterator[Any]:
        """Yield the examples as Arrow tables, one per part, in the order of the rows."""
        yield from _tables(self._directory, "examples")

    def outcomes(self) -> Iterator[Any]:
        """Yield the outcomes of the rows as Arrow tables, one per part."""
        yield from _tables(self._directory, "outcomes")

    def errors(self) -> Iterator[RowError]:
        """Yield the errors of the rows."""
        for table in self.outcomes():
            yield from errors_of(table)

    def column(self, name: str, kind: Any = np.int64) -> NDArray[Any]:
        """Return ``(rows,)`` a column of integers of the outcomes."""
        arrays = [table.column(name).to_numpy().astype(kind) for table in self.outcomes()]
        return np.concatenate([np.zeros(0, kind), *arrays])

    def scores(self, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """Return ``(rows,)`` values of each score; nan for a row without it."""
        scores: dict[str, list[float]] = {name: [] for name in names}
        for labels in self._labels() if scores else ():
            for name, values in scores.items():
                values.append(labels["scores"].get(name, math.nan))
        return {name: np.array(values, np.float64) for name, values in scores.items()}

    def tags(self) -> dict[str, tuple[list[str], NDArray[np.int32]]]:
        """Return the values of each tag, and ``(rows,)`` the number of each row's value; -1 for a row without one."""
        values: dict[str, dict[str, int]] = {}
        codes: dict[str, NDArray[np.int32]] = {}
        num_rows = len(self.column("row"))
        for row, labels in enumerate(self._labels()):
            for tag, value in labels["tags"].items():
                if tag not in values:
                    values[tag], codes[tag] = {}, np.full(num_rows, -1, np.int32)
                codes[tag][row] = values[tag].setdefault(value, len(values[tag]))
        return {tag: (list(known), codes[tag]) for tag, known in values.items()}

    def _labels(self) -> Iterator[dict[str, Any]]:
        """Yield tags and scores of every row."""
        empty: dict[str, Any] = {"tags": {}, "scores": {}}
        for table in self.outcomes():
            for labels in table.column("labels").to_pylist():
                yield empty if labels is None else json.loads(labels)


def encode_rows(
    name: str,
    rows: FilteredRows,
    row_numbers: NDArray[np.int64],
    rules: EncodeRules,
    rule_inputs: dict[str, Any],
    processes: int,
    check_part: Callable[[int, list[RowError]], None],
) -> EncodedSource:
    """Return the examples of the chosen rows of a store, from the cache if they are there.

    Args:
        name: The source, for the progress bar.
        rows: The filtered rows of the store.
        row_numbers: Numbers of the rows, ascending.
        rules: The rules by which rows become examples.
        rule_inputs: The inputs of the rules, as JSON values.
        processes: Number of worker processes.
        check_part: Called with the number of rows of each new part, and their errors; may raise to stop.
    """
    inputs = {**rule_inputs, "rows": rows.content_key(row_numbers)}
    with stage_cache.stage_dir("encoded", inputs) as (directory, is_finished):
        if not is_finished:
            sizes = rows.store.payload_sizes()[row_numbers]
            processes = processes if sizes.sum() >= SMALL_BYTES else 1
            chunks = _chunks(row_numbers, sizes)
            tasks = [(i, chunk) for i, chunk in enumerate(chunks) if not (directory / f"part-{i:05}.json").is_file()]
            before = len(row_numbers) - sum(len(chunk) for _, chunk in tasks)
            with progress(f"encode    {name}", len(row_numbers), before) as bar:
                for num_rows, errors in workers.run(
                    _PartWriter, (directory, rows.reader(), rules), _PartWriter.write, tasks, processes
                ):
                    check_part(num_rows, errors)
                    bar.advance(num_rows)
            stage_cache.mark_done(directory, {"inputs": inputs})
    return EncodedSource(stage_cache.final_dir(directory))


def _chunks(chosen: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the chosen rows in runs of at most ``CHUNK`` rows and about ``CHUNK_BYTES``, but at least one row."""
    edges, ends, start = [0], np.cumsum(sizes), 0
    while start < len(chosen):
        before = int(ends[start]) - int(sizes[start])
        start = min(start + CHUNK, max(start + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))))
        edges.append(min(start, len(chosen)))
    return [chosen[low:high] for low, high in pairwise(edges)]


class _PartWriter:
    """Writes parts in a worker process."""

    def __init__(self, directory: Path, reader: RowReader, rules: EncodeRules) -> None:
        self._directory, self._reader, self._builder = directory, reader, rules.builder()
        self._rules = rules

    @cached_property
    def _unlimited(self) -> ExampleBuilder:
        """Builder of examples of any length."""
        return replace(self._rules, max_length=sys.maxsize).builder()

    def write(self, task: tuple[int, NDArray[np.int64]]) -> tuple[int, list[RowError]]:
        """Encode and write one chunk of rows; return the number of rows, and their errors."""
        number, numbers = task
        conversations = list(self._reader.conversations(numbers))
        outcomes = self._builder.build(conversations)
        table = outcome_table(
            [row_outcome(*row) for row in zip(numbers.tolist(), conversations, outcomes, strict=True)]
        )
        examples = example_table([example for outcome in outcomes for example in outcome.examples])
        weighted = "loss_weights" in examples.column_names
        write_table(self._directory / f"examples-{number:05}.arrow", examples)
        write_table(self._directory / f"outcomes-{number:05}.arrow", table)
        stops = sorted(self._stops(conversations, outcomes))
        goldens = self._goldens(conversations, outcomes, GOLDENS_PER_KIND if number < GOLDENS_PER_KIND else 1)
        summary = json.dumps({"stops": stops, "goldens": goldens, "weighted": weighted}, ensure_ascii=False)
        write_atomic(self._directory / f"part-{number:05}.json", summary.encode())
        return len(conversations), errors_of(table)

    def _stops(self, conversations: Sequence[Conversation], outcomes: Sequence[EncodeResult]) -> frozenset[str]:
        """Return the stop tokens that end trained turns.

        If truncation removed all of them, return those of an untruncated row, which a server needs.
        """
        stops = frozenset(stop for outcome in outcomes for stop in outcome.stop_tokens)
        pairs = zip(conversations, outcomes, strict=True)
        cut = next((conversation for conversation, outcome in pairs if outcome.truncated_tokens), None)
        return stops if stops or cut is None else self._unlimited.build([cut])[0].stop_tokens

    def _goldens(
        self, conversations: Sequence[Conversation], outcomes: Sequence[EncodeResult], limit: int
    ) -> list[tuple[Sequence[bool], dict[str, Any]]]:
        """Return the golden prompts of the first rows of each kind that have one, with the kind, at most ``limit``."""
        goldens: list[tuple[Sequence[bool], dict[str, Any]]] = []
        remaining, tries = defaultdict[Sequence[bool], int](lambda: limit), Counter[Sequence[bool]]()
        for conversation, outcome in zip(conversations, outcomes, strict=True):
            kind = parity.conversation_kind(conversation)
            if outcome.problem is not None or not remaining[kind] or tries[kind] == TRIES_PER_GOLDEN * limit:
                continue
            tries[kind] += 1
            if golden := parity.golden_prompt(self._builder, conversation):
                remaining[kind] -= 1
                untruncated = self._unlimited.build([conversation])[0] if outcome.truncated_tokens else outcome
                goldens.append((kind, asdict(replace(golden, row_ids=list(untruncated.examples[-1].input_ids)))))
        return goldens


def _first_of_each_kind(goldens: Iterable[tuple[Sequence[bool], dict[str, Any]]]) -> list[parity.GoldenPrompt]:
    """Return the first golden prompts of each kind."""
    seen = Counter[tuple[bool, ...]]()
    kept = []
    for kind, golden in goldens:
        seen[tuple(kind)] += 1
        if seen[tuple(kind)] <= GOLDENS_PER_KIND:
            kept.append(parity.GoldenPrompt(**golden))
    return kept


def _tables(directory: Path, kind: str) -> Iterator[Any]:
    """Yield the tables of one kind, memory-mapped, in order."""
    import pyarrow

    for file in sorted(directory.glob(f"{kind}-*.arrow")):
        with pyarrow.memory_map(str(file)) as source:
            yield pyarrow.ipc.open_file(source).read_all()
