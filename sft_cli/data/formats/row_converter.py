"""Convert the rows of a source to conversations, by a built-in format, a user's Jinja texts or a package's function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sft_cli.config.schema.data import Role, SourceConfig, TreeConfig
from sft_cli.data.formats import column_meanings, jinja_format, plugins, preferences, tree_assembly, unread_columns
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
from sft_cli.utils.entry_points import entry_label, entry_points_by_name, load_function
from sft_cli.utils.similar import closest_name

__all__ = ["FORMATS", "RowConverter", "describe_formats", "format_package", "make_converter"]

TakeFields = Callable[[Row], tuple[Format, Fields]]
"""Returns the format of a row, and its columns under that format's names."""


@dataclass(frozen=True, slots=True)
class RowConverter:
    """Converts the rows of one source to conversations.

    Attributes:
        name: Label of the format in the manifest: ``alpaca``, ``jinja (messages, tools)``, ``medical (some-package
            1.2)``.
        needs_all_rows: Whether a conversation needs several rows: then call ``convert_all``, otherwise ``convert``.
    """

    name: str
    needs_all_rows: bool
    _source: str = field(repr=False)
    _row_format: Format | None = field(repr=False)
    _take: TakeFields = field(repr=False)
    _planner: ColumnPlanner = field(repr=False)
    _config: SourceConfig = field(repr=False)
    _options: FormatOptions = field(repr=False)

    def convert(self, row: Row) -> tuple[Conversation, ...]:
        """Return the conversations of a row, at least one.

        Raises:
            RowError: The row cannot be converted; ``RowExcluded`` if the config leaves it out.
        """
        assert not self.needs_all_rows, f"rows of {self.name} are assembled, not converted one by one"
        try:
            row_format, fields = self._take(self._planner.without_ignored(row))
            assert row_format.build is not None, "only formats that assemble rows have no function for a single row"
            conversations = tuple(
                postprocess(conversation, row, self._config) for conversation in row_format.build(fields, self._options)
            )
        except RecursionError as error:
            raise too_deep(row) from error
        if column_meanings.ignores_media(row.values, self._planner.plan(row).ignored):
            return tuple(map(unread_columns.with_placeholder_remark, conversations))
        return conversations

    def convert_all(self, rows: Iterable[Row | BadRow]) -> Iterator[Conversation | BadRow]:
        """Yield the conversations of all rows together, and the rows (or trees) that give none."""
        assert self.needs_all_rows, f"rows of {self.name} are converted one by one"
        for result in tree_assembly.assemble_trees(
            rows, lambda row: self._take(self._planner.without_ignored(row))[1], self._options
        ):
            if isinstance(result, BadRow):
                yield result
                continue
            conversation, row = result
            try:
                yield postprocess(conversation, row, self._config)
            except RowError as error:
                yield BadRow(error.where, row.source, error)

    def note_columns(self, row: Row, unread: UnreadColumns) -> None:
        """Add the columns of a row that are not read, and those that are ignored, to an account."""
        plan = self._planner.plan(row)
        if plan.not_read or plan.ignored:
            unread.add(row.values, row.where, plan.not_read, plan.ignored)

    def refuse_unread(self, unread: UnreadColumns) -> None:
        """Raise ``SftError`` if unread columns change the meaning of the rows."""
        unread_columns.refuse_meaningful(unread, self._config, self._source, self.name, self._row_format)

    def check_ignored(self, unread: UnreadColumns, columns: Iterable[str]) -> None:
        """Check that every column of ``ignore`` exists; the account must hold all rows."""
        unread_columns.check_ignored(unread, self._source, self._config.ignore, columns)


def make_converter(config: SourceConfig, name: str, separator: str, columns: Iterable[str]) -> RowConverter:
    """Return the converter for the rows of a source.

    Args:
        config: The source.
        name: Name of the source in the mix.
        separator: Text between an instruction and its input.
        columns: Columns of the first readable row, from which ``auto`` detects the format.

    Raises:
        SftError: The format is unknown, does not fit the columns, or does not read a key that the source sets.
    """
    kept = [column for column in columns if column not in config.ignore]
    label, row_format, take, planner = _resolve_reader(config, name, kept)
    _refuse_unused_keys(config, name, label, row_format, kept)
    roles = {fold_role(name_in_data): role for name_in_data, role in config.roles.items()}
    options = FormatOptions(separator, config.tree, config.role is Role.replay, roles)
    return RowConverter(
        label, row_format is not None and row_format.build is None, name, row_format, take, planner, config, options
    )


def format_package(config: SourceConfig) -> str | None:
    """Return the label and fingerprint of the package that provides a source's format; None for built-in formats.

    The rows depend on it, as they depend on their files.
    """
    points = entry_points_by_name(plugins.GROUP).get(config.format, ()) if isinstance(config.format, str) else ()
    return ", ".join(map(plugins.entry_fingerprint, points)) or None


def _resolve_reader(
    config: SourceConfig, name: str, columns: Iterable[str]
) -> tuple[str, Format | None, TakeFields, ColumnPlanner]:
    """Return the format's label, the format (None if a package decides it per row), and how columns are read."""
    if not isinstance(config.format, str):
        return *_jinja_reader(config.format, name), ColumnPlanner(
            config, reads=jinja_format.columns_read(config.format)
        )
    columns = tuple(columns)
    if config.format == AUTO:
        named_columns = {*config.columns.values(), *config.tags.values(), *config.scores.values()}
        preferences.refuse_preferences(columns, named_columns, name, config.ignore)
    format_name = resolve_format(config.format, columns, config.columns, name)
    if format_name in FORMATS:
        row_format = FORMATS[format_name]
        check_columns(config.columns, row_format.reads, name)
        planner = ColumnPlanner(config, row_format.required, row_format.optional)
        return format_name, row_format, lambda row: (row_format, planner.take(row)), planner
    (point,) = entry_points_by_name(plugins.GROUP)[format_name]
    function = load_function(point, "format", "a row", f"data.mix.{name}.format")
    label = entry_label(point)
    return (
        label,
        None,
        lambda row: _plugin_fields(plugins.call_format(function, row, format_name), format_name),
        ColumnPlanner(config, reads=None),
    )


def _jinja_reader(texts: dict[str, str], name: str) -> tuple[str, Format, TakeFields]:
    """Return the label, format and reader of a format that a user wrote as Jinja texts."""
    row_format = format_for_fields(texts)
    if row_format is None:
        known = {field for row_format in FORMATS.values() for field in row_format.reads}
        unknown = next((field for field in texts if field not in known), None)
        near = closest_name(unknown, known) if unknown else None
        raise SftError(
            where=f"data.mix.{name}.format",
            problem=f"no format has the fields {format_list(texts) or '(none)'}",
            fix=f"did you mean {near} instead of {unknown}?"
            if near
            else "write messages: …, text: …, or prompt: and completion: …",
        )
    compiled = jinja_format.compile_fields(texts, f"data.mix.{name}.format")
    return (
        f"jinja ({', '.join(texts)})",
        row_format,
        lambda row: (row_format, jinja_format.evaluate_fields(compiled, row)),
    )


def _plugin_fields(fields: Fields, name: str) -> tuple[Format, Fields]:
    """Return the format of the fields that a package's function returned, and the fields."""
    row_format = format_for_fields(fields.values)
    if row_format is None or row_format.build is None:
        raise RowError(
            where=fields.row.where,
            reason=f"format {name} returned unknown fields",
            problem=f"the format {name} returned {format_list(fields.columns) or 'nothing'}, which fits no format",
            fix="change the function to return messages, {'messages': …, 'tools': …} or a text",
        )
    return row_format, fields


def _refuse_unused_keys(
    config: SourceConfig, name: str, label: str, row_format: Format | None, columns: Sequence[str]
) -> None:
    """Refuse keys of the source that its format does not read, and the replay of conversations."""
    key = f"data.mix.{name}"
    builtin = isinstance(config.format, str) and row_format is not None
    unused = {
        "columns": bool(config.columns) and not builtin,
        "tree": config.tree != TreeConfig() and (row_format is None or not row_format.tree),
        "variables": bool(config.variables) and row_format is FORMATS["tokens"],
        "roles": bool(config.roles) and row_format is not None and not row_format.roles,
    }
    for field_name, no_effect in unused.items():
        if no_effect:
            raise SftError(
                where=f"{key}.{field_name}",
                problem=f"the key has no effect: the format {label} does not read it",
                fix=f"remove {key}.{field_name}",
            )
    if config.role is Role.replay and row_format is not None and not row_format.document:
        raise SftError(
            where=f"{key}.role",
            problem=f"replay trains whole documents as plain text, but {label} rows are conversations",
            fix=replay_advice(name, columns),
        )
