"""The fourth stage: the rows of a source as proven examples, in parts, with what became of each row."""

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
"""Modules that decide what an example is."""
RULES = ("train_on", "train_on_tool_calls", "train_on_tool_results", "train_on_reasoning", "no_loss_patterns",
         "thinking", "system", "override_system", "sanitize", "delimiters", "overflow")  # fmt: skip
"""Settings of ``data`` that decide what an example is."""
CHUNK = 2000
"""Most rows encoded at once."""
CHUNK_BYTES = 8 * 1024 * 1024
"""Stored bytes of the rows encoded at once: long ones are fewer."""
SMALL_BYTES = 8 * 1024 * 1024
"""Stored bytes below which one process is fastest: starting one takes as long as encoding half of them."""
GOLDENS_PER_KIND = 4
"""Golden prompts kept of each kind of rows of a source (see ``parity.kind``)."""
TRIES_PER_GOLDEN = 16
"""Rows of a kind that are tried for each golden prompt: some have none."""


@dataclass(frozen=True)
class EncodeRules:
    """How the rows of one source become examples; sent to the processes that do it.

    Attributes:
        tokenizer: Its tokenizer.
        template: The chat template.
        data: Rules of what is trained.
        max_length: Longest example, in tokens.
        replay: Whether documents are cut into pieces instead of being too long.
        loss_weight: Factor on every token's loss.
    """

    tokenizer: ChatTokenizer
    template: ChatTemplate
    data: DataConfig
    max_length: int
    replay: bool
    loss_weight: float

    def maker(self) -> ExampleBuilder:
        """What makes examples by these rules."""
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
        self.goldens = _first_of_each_kind([one for part in parts for one in part["goldens"]])
        self.weighted = any(part["weighted"] for part in parts)

    def examples(self) -> Iterator[Any]:
        """The examples as Arrow tables, one for each part, in the order of the rows."""
        yield from _tables(self._directory, "examples")

    def outcomes(self) -> Iterator[Any]:
        """What became of the rows, as Arrow tables, one for each part."""
        yield from _tables(self._directory, "outcomes")

    def errors(self) -> Iterator[RowError]:
        """Yield the errors of the rows."""
        for table in self.outcomes():
            yield from errors_of(table)

    def column(self, name: str, kind: Any = np.int64) -> NDArray[Any]:
        """``(rows,)``: a column of integers of the outcomes."""
        found = [table.column(name).to_numpy().astype(kind) for table in self.outcomes()]
        return np.concatenate([np.zeros(0, kind), *found])

    def scores(self, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """``(rows,)`` per score: what every row has; nan where it has none."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for labels in self._labels() if found else ():
            for name, values in found.items():
                values.append(labels["scores"].get(name, math.nan))
        return {name: np.array(values, np.float64) for name, values in found.items()}

    def tags(self) -> dict[str, tuple[list[str], NDArray[np.int32]]]:
        """Per tag the values there are, and ``(rows,)`` the number of each row's value; -1 where it has none."""
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
        """Tags and scores of every row."""
        nothing: dict[str, Any] = {"tags": {}, "scores": {}}
        for table in self.outcomes():
            for labels in table.column("labels").to_pylist():
                yield nothing if labels is None else json.loads(labels)


def encode_rows(
    name: str,
    rows: FilteredRows,
    row_numbers: NDArray[np.int64],
    rules: EncodeRules,
    rule_inputs: dict[str, Any],
    processes: int,
    check_errors: Callable[[Iterable[RowError]], None],
) -> EncodedSource:
    """The examples of the chosen rows of a store, from the cache where they are there.

    Args:
        name: The source, for the progress bar.
        rows: The store behind the filters.
        row_numbers: Numbers of the rows, ascending.
        rules: How rows become examples.
        rule_inputs: What the rules depend on, as plain values.
        processes: How many encode at once.
        check_errors: Called with the errors of the rows, part by part; raises what must stop the run.
    """
    inputs = {**rule_inputs, "rows": rows.content_key(row_numbers)}
    with stage_cache.stage_dir("encoded", inputs) as (directory, done):
        if not done:
            check_errors(EncodedSource(directory).errors())  # of a run that was stopped
            sizes = rows.store.payload_sizes()[row_numbers]
            processes = processes if sizes.sum() >= SMALL_BYTES else 1
            chunks = _chunks(row_numbers, sizes)
            tasks = [(i, chunk) for i, chunk in enumerate(chunks) if not (directory / f"part-{i:05}.json").is_file()]
            before = len(row_numbers) - sum(len(chunk) for _, chunk in tasks)
            with progress(f"encode    {name}", len(row_numbers), before) as shown:
                for made, errors in workers.run(
                    _PartWriter, (directory, rows.reader(), rules), _PartWriter.write, tasks, processes
                ):
                    check_errors(errors)
                    shown.advance(made)
            stage_cache.mark_done(directory, {"inputs": inputs})
    encoded = EncodedSource(stage_cache.final_dir(directory))
    check_errors(encoded.errors())
    return encoded


def _chunks(chosen: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The chosen rows in runs of at most ``CHUNK`` rows, one or about ``CHUNK_BYTES``."""
    edges, behind, start = [0], np.cumsum(sizes), 0
    while start < len(chosen):
        before = int(behind[start]) - int(sizes[start])
        start = min(start + CHUNK, max(start + 1, int(np.searchsorted(behind, before + CHUNK_BYTES, side="right"))))
        edges.append(min(start, len(chosen)))
    return [chosen[low:high] for low, high in pairwise(edges)]


class _PartWriter:
    """Writes parts in a worker process."""

    def __init__(self, directory: Path, reader: RowReader, rules: EncodeRules) -> None:
        self._directory, self._reader, self._maker = directory, reader, rules.maker()
        self._rules = rules

    @cached_property
    def _unlimited(self) -> ExampleBuilder:
        """What makes examples of any length."""
        return replace(self._rules, max_length=sys.maxsize).maker()

    def write(self, task: tuple[int, NDArray[np.int64]]) -> tuple[int, list[RowError]]:
        """Encode and write one chunk of rows; their number, and what is wrong with some of them."""
        number, numbers = task
        conversations = list(self._reader.conversations(numbers))
        outcomes = self._maker.build(conversations)
        table = outcome_table(
            [row_outcome(*one) for one in zip(numbers.tolist(), conversations, outcomes, strict=True)]
        )
        examples = example_table([example for outcome in outcomes for example in outcome.examples])
        weighted = "loss_weights" in examples.column_names
        write_table(self._directory / f"examples-{number:05}.arrow", examples)
        write_table(self._directory / f"outcomes-{number:05}.arrow", table)
        stops = sorted(self._stops(conversations, outcomes))
        goldens = self._goldens(conversations, outcomes, GOLDENS_PER_KIND if number < GOLDENS_PER_KIND else 1)
        mark = json.dumps({"stops": stops, "goldens": goldens, "weighted": weighted}, ensure_ascii=False)
        write_atomic(self._directory / f"part-{number:05}.json", mark.encode())
        return len(conversations), errors_of(table)

    def _stops(self, conversations: Sequence[Conversation], outcomes: Sequence[EncodeResult]) -> frozenset[str]:
        """The stop tokens that end trained turns.

        Where truncation left none, those of a whole row: a server stops there all the same.
        """
        found = frozenset(stop for outcome in outcomes for stop in outcome.stop_tokens)
        pairs = zip(conversations, outcomes, strict=True)
        cut = next((conversation for conversation, outcome in pairs if outcome.truncated_tokens), None)
        return found if found or cut is None else self._unlimited.build([cut])[0].stop_tokens

    def _goldens(
        self, conversations: Sequence[Conversation], outcomes: Sequence[EncodeResult], most: int
    ) -> list[tuple[Sequence[bool], dict[str, Any]]]:
        """The golden prompts of the first rows of each kind that have one, ``most`` at most, with the kind."""
        found: list[tuple[Sequence[bool], dict[str, Any]]] = []
        left, tries = defaultdict[Sequence[bool], int](lambda: most), Counter[Sequence[bool]]()
        for conversation, outcome in zip(conversations, outcomes, strict=True):
            kind = parity.conversation_kind(conversation)
            if outcome.problem is not None or not left[kind] or tries[kind] == TRIES_PER_GOLDEN * most:
                continue
            tries[kind] += 1
            if golden := parity.golden_prompt(self._maker, conversation):
                left[kind] -= 1
                whole = self._unlimited.build([conversation])[0] if outcome.truncated_tokens else outcome
                found.append((kind, asdict(replace(golden, row_ids=list(whole.examples[-1].input_ids)))))
        return found


def _first_of_each_kind(found: Iterable[tuple[Sequence[bool], dict[str, Any]]]) -> list[parity.GoldenPrompt]:
    """The first golden prompts of each kind."""
    seen = Counter[tuple[bool, ...]]()
    kept = []
    for kind, golden in found:
        seen[tuple(kind)] += 1
        if seen[tuple(kind)] <= GOLDENS_PER_KIND:
            kept.append(parity.GoldenPrompt(**golden))
    return kept


def _tables(directory: Path, kind: str) -> Iterator[Any]:
    """The tables of one kind, memory-mapped, in order."""
    import pyarrow

    for file in sorted(directory.glob(f"{kind}-*.arrow")):
        with pyarrow.memory_map(str(file)) as source:
            yield pyarrow.ipc.open_file(source).read_all()
