"""Which columns of a row its format reads, and which nothing reads: found once for rows with the same columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.column_names import find_columns, similar_column
from sft_cli.data.formats.fields import Fields
from sft_cli.data.row_errors import RowError, format_list
from sft_cli.types import Row

MAX_PLANS = 1000
"""Sets of columns remembered; rows whose columns differ more than that are looked at one by one."""


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """How rows with one set of columns are taken.

    Attributes:
        taken: The format's name -> the column that holds it.
        missing: The format's name and the column of the first one that must be there and is not; None if none is.
        not_read: Columns that nothing reads, in the row's order.
        ignored: Columns that ``ignore`` leaves out, in the row's order.
    """

    taken: Mapping[str, str]
    missing: tuple[str, str] | None
    not_read: tuple[str, ...]
    ignored: tuple[str, ...]


class ColumnPlanner:
    """Plans for the rows of one source.

    Args:
        config: The source.
        required: The format's names that every row must have.
        optional: Those that a row may have.
        reads: Further columns that are read, such as those a Jinja text names; None for all of them.
    """

    def __init__(
        self,
        config: SourceConfig,
        required: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        reads: frozenset[str] | None = frozenset(),
    ) -> None:
        self._mapped, self._required, self._optional = config.columns, required, optional
        self._ignored = frozenset(config.ignore)
        self._reads = None if reads is None else reads.union(config.tags.values(), config.scores.values())
        self._plans: dict[tuple[str, ...], ColumnPlan] = {}

    def plan(self, row: Row) -> ColumnPlan:
        """The plan of a row with these columns."""
        columns = tuple(row.values)
        found = self._plans.get(columns)
        if found is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            found = self._plans[columns] = self._make_plan(columns)
        return found

    def take(self, row: Row) -> Fields:
        """The row's columns under the format's names; a required or mapped one that is missing is an error."""
        plan = self.plan(row)
        if plan.missing is not None:
            raise missing_column(row, *plan.missing, plan.not_read, self._mapped)
        return Fields({name: row.values[column] for name, column in plan.taken.items()}, plan.taken, row)

    def without_ignored(self, row: Row) -> Row:
        """The row without the columns that are left out on purpose."""
        if not self._ignored or self._ignored.isdisjoint(row.values):
            return row
        values = {column: value for column, value in row.values.items() if column not in self._ignored}
        return Row(values, row.where, row.source)

    def _make_plan(self, columns: tuple[str, ...]) -> ColumnPlan:
        kept = [column for column in columns if column not in self._ignored]
        found = find_columns((*self._required, *self._optional), self._mapped, kept)
        wanted = [name for name in (*self._required, *self._optional) if name in self._required or name in self._mapped]
        lost = next(((name, self._mapped.get(name, name)) for name in wanted if name not in found), None)
        read = {*found.values(), *(kept if self._reads is None else self._reads)}
        return ColumnPlan(
            {name: found[name] for name in (*self._required, *self._optional) if name in found},
            lost,
            tuple(column for column in kept if column not in read),
            tuple(column for column in columns if column in self._ignored),
        )


def replay_advice(source: str, columns: Sequence[str]) -> str:
    """What to do where a source is replayed whose rows are conversations.

    Args:
        source: Its name in the mix.
        columns: Columns of its rows that may hold a document.
    """
    key = f"data.mix.{source}"
    chosen = f"{key}.format=text {format_override(f'{key}.columns', {'text': columns[-1]})}" if columns else ""
    return f"{key}.role=instruct" + (f", or train one column as documents: {chosen}" if chosen else "")


def missing_column(
    row: Row, name: str, column: str, left: tuple[str, ...] = (), mapped: Mapping[str, str] | None = None
) -> RowError:
    """The error for a column the format needs, or the user named, that is not there.

    Args:
        row: The row.
        name: The format's name for it.
        column: Its name in the file.
        left: Columns of the row that nothing reads.
        mapped: The source's ``columns``.
    """
    meant = similar_column(column, left) or similar_column(name, left)
    fix = f"give every row {column!r}, or leave such rows out with data.on_bad_row=drop"
    if mapped and name in mapped:
        fix = f"give every row {column!r}, or leave data.mix.{row.source}.columns.{name} out"
    if meant is not None:
        fix = format_override(f"data.mix.{row.source}.columns", {**(mapped or {}), name: meant})
    return RowError(
        where=row.where,
        reason=f"missing field {name}",
        problem=f"there is no field {column!r}; the row has {format_list(row.values) or 'no fields'}",
        fix=fix,
    )
