"""Formats of rows: a table of them, those a user writes, those packages bring. Every row becomes conversations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sft_cli.config.schema.data import Role, SourceConfig, TreeConfig
from sft_cli.data.formats import jinja_format, plugins, preferences, tree_assembly, unread_columns
from sft_cli.data.formats.columns import ColumnPlanner, replay_advice
from sft_cli.data.formats.detect import AUTO, format_for_fields, resolve_format
from sft_cli.data.formats.fields import Fields, FormatOptions, check_columns, too_deep
from sft_cli.data.formats.postprocess import postprocess
from sft_cli.data.formats.registry import FORMATS, Format, describe_formats
from sft_cli.data.formats.row_context import fold_role
from sft_cli.data.formats.unread_columns import UnreadColumns
from sft_cli.data.row_errors import RowError, format_list
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Row
from sft_cli.utils.similar import closest_name

__all__ = ["FORMATS", "RowConverter", "describe_formats", "format_package", "make_converter"]

Take = Callable[[Row], tuple[Format, Fields]]
"""From a row to the shape it is read in and its columns under that format's names."""


@dataclass(frozen=True, slots=True)
class RowConverter:
    """Makes conversations of the rows of one source.

    Attributes:
        name: The format, for the manifest: ``alpaca``, ``jinja (messages, tools)``, ``medical (some-package 1.2)``.
        needs_all_rows: Whether a conversation needs several rows: then call ``convert_all``, else ``convert``.
    """

    name: str
    needs_all_rows: bool
    _source: str = field(repr=False)
    _row_format: Format | None = field(repr=False)
    _take: Take = field(repr=False)
    _planner: ColumnPlanner = field(repr=False)
    _config: SourceConfig = field(repr=False)
    _options: FormatOptions = field(repr=False)

    def convert(self, row: Row) -> tuple[Conversation, ...]:
        """The conversations of a row, at least one.

        Raises:
            RowError: What is wrong with it; ``LeftOut`` if the config does not want it.
        """
        assert not self.needs_all_rows, f"rows of {self.name} are gathered, not converted one by one"
        try:
            row_format, fields = self._take(self._planner.without_ignored(row))
            assert row_format.build is not None, "only whole formats have no function for a single row"
            conversations = tuple(
                postprocess(found, row, self._config) for found in row_format.build(fields, self._options)
            )
        except RecursionError as error:
            raise too_deep(row) from error
        if unread_columns.ignores_media(row.values, self._planner.plan(row).ignored):
            return tuple(map(unread_columns.with_placeholder_remark, conversations))
        return conversations

    def convert_all(self, rows: Iterable[Row | BadRow]) -> Iterator[Conversation | BadRow]:
        """The conversations that all rows of the source make together, and the rows (or trees) that make none."""
        assert self.needs_all_rows, f"rows of {self.name} are converted one by one"
        for found in tree_assembly.assemble_trees(
            rows, lambda row: self._take(self._planner.without_ignored(row))[1], self._options
        ):
            if isinstance(found, BadRow):
                yield found
                continue
            conversation, row = found
            try:
                yield postprocess(conversation, row, self._config)
            except RowError as error:
                yield BadRow(error.where, row.source, error)

    def note_columns(self, row: Row, unread: UnreadColumns) -> None:
        """Enter the columns of a row that nothing reads, and those left out on purpose, into an account."""
        plan = self._planner.plan(row)
        if plan.not_read or plan.ignored:
            unread.add(row.values, row.where, plan.not_read, plan.ignored)

    def refuse_unread(self, unread: UnreadColumns) -> None:
        """Return if nothing that is not read changes what the rows mean; ``SftError`` names all that does."""
        unread_columns.refuse_meaningful(unread, self._config, self._source, self.name, self._row_format)

    def check_ignored(self, unread: UnreadColumns, columns: Iterable[str]) -> None:
        """Return if every column of ``ignore`` is in the rows, all of which are in the account."""
        unread_columns.check_ignored(unread, self._source, self._config.ignore, columns)


def make_converter(config: SourceConfig, name: str, separator: str, columns: Iterable[str]) -> RowConverter:
    """What reads the rows of a source.

    Args:
        config: The source.
        name: Its name in the mix.
        separator: Stands between an instruction and its input.
        columns: Columns of the first readable row, from which ``auto`` recognises the format.

    Raises:
        SftError: The format is unknown, does not fit the columns, or leaves a key of the source without effect.
    """
    kept = [column for column in columns if column not in config.ignore]
    label, row_format, take, planner = _resolve_reader(config, name, kept)
    _refuse_unused_keys(config, name, label, row_format, kept)
    roles = {fold_role(given): role for given, role in config.roles.items()}
    options = FormatOptions(separator, config.tree, config.role is Role.replay, roles)
    return RowConverter(
        label, row_format is not None and row_format.build is None, name, row_format, take, planner, config, options
    )


def format_package(config: SourceConfig) -> str | None:
    """The installed package a source's format comes from, with its version and code; None for formats of our own.

    The rows depend on it, as on the files they are read from.
    """
    points = plugins.installed_formats().get(config.format, ()) if isinstance(config.format, str) else ()
    return ", ".join(map(plugins.entry_fingerprint, points)) or None


def _resolve_reader(
    config: SourceConfig, name: str, columns: Iterable[str]
) -> tuple[str, Format | None, Take, ColumnPlanner]:
    """The format's label, its shape (None where a package decides it row by row), and how columns are taken."""
    if not isinstance(config.format, str):
        return *_jinja_reader(config.format, name), ColumnPlanner(
            config, reads=jinja_format.columns_read(config.format)
        )
    columns = tuple(columns)
    if config.format == AUTO:
        named = {*config.columns.values(), *config.tags.values(), *config.scores.values()}
        preferences.refuse_preferences(columns, named, name, config.ignore)
    chosen = resolve_format(config.format, columns, config.columns, name)
    if chosen in FORMATS:
        row_format = FORMATS[chosen]
        check_columns(config.columns, row_format.reads, name)
        planner = ColumnPlanner(config, row_format.required, row_format.optional)
        return chosen, row_format, lambda row: (row_format, planner.take(row)), planner
    (point,) = plugins.installed_formats()[chosen]
    function = plugins.load_format(point, f"data.mix.{name}.format")
    label = plugins.entry_label(point)
    return (
        label,
        None,
        lambda row: _plugin_fields(plugins.call_format(function, row, chosen), chosen),
        ColumnPlanner(config, reads=None),
    )


def _jinja_reader(texts: dict[str, str], name: str) -> tuple[str, Format, Take]:
    """The format a user wrote as Jinja texts."""
    row_format = format_for_fields(texts)
    if row_format is None:
        known = {field for row_format in FORMATS.values() for field in row_format.reads}
        unknown = next((field for field in texts if field not in known), None)
        near = closest_name(unknown, known) if unknown else None
        raise SftError(
            where=f"data.mix.{name}.format",
            problem=f"no format is made of {format_list(texts) or 'nothing'}",
            fix=f"did you mean {near} for {unknown}?"
            if near
            else "write messages: …, text: …, or prompt: and completion: …",
        )
    compiled = jinja_format.compile_fields(texts, name)
    return (
        f"jinja ({', '.join(texts)})",
        row_format,
        lambda row: (row_format, jinja_format.evaluate_fields(compiled, row)),
    )


def _plugin_fields(fields: Fields, name: str) -> tuple[Format, Fields]:
    """The shape of the fields that a package's format gave."""
    row_format = format_for_fields(fields.values)
    if row_format is None or row_format.build is None:
        raise RowError(
            where=fields.row.where,
            reason=f"format {name} gave unknown fields",
            problem=f"the format {name} gives {format_list(fields.columns) or 'nothing'}, which fits no format",
            fix="let the function return messages, {'messages': …, 'tools': …} or a text",
        )
    return row_format, fields


def _refuse_unused_keys(
    config: SourceConfig, name: str, label: str, row_format: Format | None, columns: Sequence[str]
) -> None:
    """Refuse keys of the source that nothing would read, and replay of what can be no document."""
    key = f"data.mix.{name}"
    ours = isinstance(config.format, str) and row_format is not None
    unused = {
        "columns": bool(config.columns) and not ours,
        "tree": config.tree != TreeConfig() and (row_format is None or not row_format.tree),
        "variables": bool(config.variables) and row_format is FORMATS["tokens"],
        "roles": bool(config.roles) and row_format is not None and not row_format.roles,
    }
    for field_name, no_effect in unused.items():
        if no_effect:
            raise SftError(
                where=f"{key}.{field_name}",
                problem=f"it would have no effect: the format {label} does not read it",
                fix=f"leave {key}.{field_name} out",
            )
    if config.role is Role.replay and row_format is not None and not row_format.document:
        raise SftError(
            where=f"{key}.role",
            problem=f"replay trains whole documents as plain text, but {label} rows are conversations",
            fix=replay_advice(name, columns),
        )
