"""Formats of rows: a table of them, those a user writes, those packages bring. Every row becomes conversations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sft_cli.config.schema.data import Role, SourceConfig, TreeConfig
from sft_cli.data.formats import jinja_format, plugins, preferences, tree_assembly, unread_columns
from sft_cli.data.formats.columns import Planner, as_document
from sft_cli.data.formats.detect import AUTO, choose, shape_of
from sft_cli.data.formats.fields import Fields, Knobs, check_columns, too_deep
from sft_cli.data.formats.postprocess import finish
from sft_cli.data.formats.registry import FORMATS, Format, describe
from sft_cli.data.formats.row_context import compact
from sft_cli.data.formats.unread_columns import Account
from sft_cli.data.row_errors import RowError, listing, nearest
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Row

__all__ = ["FORMATS", "Converter", "converter", "describe", "package"]

Take = Callable[[Row], tuple[Format, Fields]]
"""From a row to the shape it is read in and its columns under that format's names."""


@dataclass(frozen=True, slots=True)
class Converter:
    """Makes conversations of the rows of one source.

    Attributes:
        name: The format, for the manifest: ``alpaca``, ``jinja (messages, tools)``, ``medical (some-package 1.2)``.
        whole: Whether rows are pieces that only all together make conversations: then ``gather``, else ``convert``.
    """

    name: str
    whole: bool
    _source: str = field(repr=False)
    _shape: Format | None = field(repr=False)
    _take: Take = field(repr=False)
    _planner: Planner = field(repr=False)
    _config: SourceConfig = field(repr=False)
    _knobs: Knobs = field(repr=False)

    def convert(self, row: Row) -> tuple[Conversation, ...]:
        """The conversations of a row, at least one.

        Raises:
            RowError: What is wrong with it; ``LeftOut`` if the config does not want it.
        """
        assert not self.whole, f"rows of {self.name} are gathered, not converted one by one"
        try:
            shape, fields = self._take(self._planner.kept(row))
            assert shape.build is not None, "only whole formats have no function for a single row"
            conversations = tuple(finish(found, row, self._config) for found in shape.build(fields, self._knobs))
        except RecursionError as error:
            raise too_deep(row) from error
        if unread_columns.ignores_media(row.values, self._planner.plan(row).ignored):
            return tuple(map(unread_columns.with_placeholder_remark, conversations))
        return conversations

    def gather(self, rows: Iterable[Row | BadRow]) -> Iterator[Conversation | BadRow]:
        """The conversations that all rows of the source make together, and the rows (or trees) that make none."""
        assert self.whole, f"rows of {self.name} are converted one by one"
        for found in tree_assembly.gather(rows, lambda row: self._take(self._planner.kept(row))[1], self._knobs):
            if isinstance(found, BadRow):
                yield found
                continue
            conversation, row = found
            try:
                yield finish(conversation, row, self._config)
            except RowError as error:
                yield BadRow(error.where, row.source, error)

    def note(self, row: Row, account: Account) -> None:
        """Enter the columns of a row that nothing reads, and those left out on purpose, into an account."""
        plan = self._planner.plan(row)
        if plan.not_read or plan.ignored:
            account.add(row.values, row.where, plan.not_read, plan.ignored)

    def refuse_unread(self, account: Account) -> None:
        """Return if nothing that is not read changes what the rows mean; ``SftError`` names all that does."""
        unread_columns.refuse(account, self._config, self._source, self.name, self._shape)

    def check_ignored(self, account: Account, columns: Iterable[str]) -> None:
        """Return if every column of ``ignore`` is in the rows, all of which are in the account."""
        unread_columns.check_ignored(account, self._source, self._config.ignore, columns)


def converter(config: SourceConfig, name: str, separator: str, columns: Iterable[str]) -> Converter:
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
    label, shape, take, planner = _reader(config, name, kept)
    _refuse_idle(config, name, label, shape, kept)
    roles = {compact(given): role for given, role in config.roles.items()}
    knobs = Knobs(separator, config.tree, config.role is Role.replay, roles)
    return Converter(label, shape is not None and shape.build is None, name, shape, take, planner, config, knobs)


def package(config: SourceConfig) -> str | None:
    """The installed package a source's format comes from, with its version and code; None for formats of our own.

    The rows depend on it, as on the files they are read from.
    """
    points = plugins.installed().get(config.format, ()) if isinstance(config.format, str) else ()
    return ", ".join(map(plugins.fingerprint, points)) or None


def _reader(config: SourceConfig, name: str, columns: Iterable[str]) -> tuple[str, Format | None, Take, Planner]:
    """The format's label, its shape (None where a package decides it row by row), and how columns are taken."""
    if not isinstance(config.format, str):
        return *_written(config.format, name), Planner(config, reads=jinja_format.columns_read(config.format))
    columns = tuple(columns)
    if config.format == AUTO:
        told = {*config.columns.values(), *config.tags.values(), *config.scores.values()}
        preferences.refuse(columns, told, name, config.ignore)
    chosen = choose(config.format, columns, config.columns, name)
    if chosen in FORMATS:
        shape = FORMATS[chosen]
        check_columns(config.columns, shape.reads, name)
        planner = Planner(config, shape.required, shape.optional)
        return chosen, shape, lambda row: (shape, planner.take(row)), planner
    (point,) = plugins.installed()[chosen]
    function = plugins.load(point, f"data.mix.{name}.format")
    brought = plugins.label(point)
    return brought, None, lambda row: _brought(plugins.call(function, row, chosen), chosen), Planner(config, reads=None)


def _written(texts: dict[str, str], name: str) -> tuple[str, Format, Take]:
    """The format a user wrote as Jinja texts."""
    shape = shape_of(texts)
    if shape is None:
        known = {field for shape in FORMATS.values() for field in shape.reads}
        unknown = next((field for field in texts if field not in known), None)
        near = nearest(unknown, known) if unknown else None
        raise SftError(
            where=f"data.mix.{name}.format",
            problem=f"no format is made of {listing(texts) or 'nothing'}",
            fix=f"did you mean {near} for {unknown}?"
            if near
            else "write messages: …, text: …, or prompt: and completion: …",
        )
    compiled = jinja_format.compile_fields(texts, name)
    return f"jinja ({', '.join(texts)})", shape, lambda row: (shape, jinja_format.evaluate(compiled, row))


def _brought(fields: Fields, name: str) -> tuple[Format, Fields]:
    """The shape of the fields that a package's format gave."""
    shape = shape_of(fields.values)
    if shape is None or shape.build is None:
        raise RowError(
            where=fields.row.where,
            reason=f"format {name} gave unknown fields",
            problem=f"the format {name} gives {listing(fields.columns) or 'nothing'}, and no format is made of these",
            fix="let the function return messages, {'messages': …, 'tools': …} or a text",
        )
    return shape, fields


def _refuse_idle(config: SourceConfig, name: str, label: str, shape: Format | None, columns: Sequence[str]) -> None:
    """Refuse keys of the source that nothing would read, and replay of what can be no document."""
    key = f"data.mix.{name}"
    ours = isinstance(config.format, str) and shape is not None
    idle = {
        "columns": bool(config.columns) and not ours,
        "tree": config.tree != TreeConfig() and (shape is None or not shape.tree),
        "variables": bool(config.variables) and shape is FORMATS["tokens"],
        "roles": bool(config.roles) and shape is not None and not shape.roles,
    }
    for field_name, no_effect in idle.items():
        if no_effect:
            raise SftError(
                where=f"{key}.{field_name}",
                problem=f"it would have no effect: the format {label} does not read it",
                fix=f"leave {key}.{field_name} out",
            )
    if config.role is Role.replay and shape is not None and not shape.document:
        raise SftError(
            where=f"{key}.role",
            problem=f"replay trains whole documents as plain text, but {label} rows are conversations",
            fix=as_document(name, columns),
        )
