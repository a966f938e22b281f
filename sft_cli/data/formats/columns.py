"""Plan which columns of a row its format reads; rows with the same columns share one plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.column_names import find_columns, similar_column
from sft_cli.data.formats.fields import Fields
from sft_cli.data.row_errors import RowError, format_list
from sft_cli.types import Row

MAX_PLANS = 1000
"""Column sets whose plans are kept; the cache is cleared when it is full."""


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """The use of each column in rows with one set of columns.

    Attributes:
        taken: The format's name -> the column that holds it.
        missing: The format's name and the column of the first required or mapped column that is absent; None if none
            is.
        not_read: Columns that nothing reads, in the row's order.
        ignored: Columns that the source's ``ignore`` names, in the row's order.
    """

    taken: Mapping[str, str]
    missing: tuple[str, str] | None
    not_read: tuple[str, ...]
    ignored: tuple[str, ...]


class ColumnPlanner:
    """Makes and caches the column plans of one source.

    Args:
        config: The source.
        required: Names of the format that every row must have.
        optional: Names of the format that a row may have.
        reads: Other columns that are read, such as those of a Jinja text; None for all columns.
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
        """Return the plan for the columns of a row."""
        columns = tuple(row.values)
        plan = self._plans.get(columns)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[columns] = self._make_plan(columns)
        return plan

    def take(self, row: Row) -> Fields:
        """Return the row's columns under the format's names.

        Raises:
            RowError: A required or mapped column is missing.
        """
        plan = self.plan(row)
        if plan.missing is not None:
            is_required = plan.missing[0] in self._required
            raise missing_column(row, *plan.missing, plan.not_read, self._mapped, is_required=is_required)
        return Fields({name: row.values[column] for name, column in plan.taken.items()}, plan.taken, row)

    def without_ignored(self, row: Row) -> Row:
        """Return the row without the columns that the source ignores."""
        if not self._ignored or self._ignored.isdisjoint(row.values):
            return row
        values = {column: value for column, value in row.values.items() if column not in self._ignored}
        return Row(values, row.where, row.source)

    def _make_plan(self, columns: tuple[str, ...]) -> ColumnPlan:
        kept = [column for column in columns if column not in self._ignored]
        matched = find_columns((*self._required, *self._optional), self._mapped, kept)
        needed = [name for name in (*self._required, *self._optional) if name in self._required or name in self._mapped]
        missing = next(((name, self._mapped.get(name, name)) for name in needed if name not in matched), None)
        read = {*matched.values(), *(kept if self._reads is None else self._reads)}
        return ColumnPlan(
            {name: matched[name] for name in (*self._required, *self._optional) if name in matched},
            missing,
            tuple(column for column in kept if column not in read),
            tuple(column for column in columns if column in self._ignored),
        )


def replay_advice(source: str, columns: Sequence[str]) -> str:
    """Return the fix for a replayed source whose rows are conversations.

    Args:
        source: Name of the source in the mix.
        columns: Columns of its rows that may hold a document.
    """
    key = f"data.mix.{source}"
    chosen = f"{key}.format=text {format_override(f'{key}.columns', {'text': columns[-1]})}" if columns else ""
    return f"{key}.role=instruct" + (f", or train one column as documents: {chosen}" if chosen else "")


def missing_column(
    row: Row,
    name: str,
    column: str,
    unread: tuple[str, ...] = (),
    mapped: Mapping[str, str] | None = None,
    *,
    is_required: bool = True,
) -> RowError:
    """Return the error for a required or mapped column that a row lacks.

    Args:
        row: The row.
        name: The format's name of the column.
        column: The column's name in the file.
        unread: Columns of the row that nothing reads.
        mapped: The source's ``columns``.
        is_required: Whether every row must have the column; otherwise it is missing because ``columns`` names it.
    """
    similar = similar_column(column, unread) or similar_column(name, unread)
    otherwise = "remove the row" if is_required else f"remove data.mix.{row.source}.columns.{name}"
    fix = f"add {column!r} to the row, or {otherwise}"
    if similar is not None:
        fix = format_override(f"data.mix.{row.source}.columns", {**(mapped or {}), name: similar})
    return RowError(
        where=row.where,
        reason=f"missing field {column}",
        problem=f"there is no field {column!r}; the row has {format_list(row.values) or 'no fields'}",
        fix=fix,
    )
