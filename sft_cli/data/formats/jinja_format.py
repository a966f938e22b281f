"""Formats that a user writes in YAML: Jinja over the columns of a row, one text for each field of a format.

A text that is a single ``{{ … }}`` gives its value (a list stays a list); any other text is rendered, and where the
format expects a list the rendered text must be JSON. Jinja runs in a sandbox that can read the row and nothing else.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, nodes
from jinja2.meta import find_undeclared_variables

from sft_cli.data.formats.fields import JINJA, Fields
from sft_cli.data.row_errors import RowError, format_list, short_repr
from sft_cli.errors import SftError
from sft_cli.sandbox.budget import BudgetExceeded
from sft_cli.sandbox.environment import LimitedEnvironment
from sft_cli.types import Row
from sft_cli.utils.text import parse_json

Expression = Callable[[Mapping[str, Any]], Any]

ROW = "row"
"""The variable that holds the row as a whole, unless a column has this name."""

LIST_FIELDS = ("messages", "conversations", "conversation", "tools", "functions", "history", "input_ids", "labels")
"""Fields that hold lists: their rendered text is parsed as JSON."""


def compile_fields(
    texts: Mapping[str, str], key: str, constant: Collection[str] = ("system",)
) -> Mapping[str, Expression]:
    """Return the fields of a user's format, compiled.

    Args:
        texts: Field -> Jinja text.
        key: The key that holds the texts, for errors.
        constant: The fields that may be the same for every row.
    """
    environment = _environment()
    return {
        name: _compile(environment, text, f"{key}.{name}", reads_row=name not in constant)
        for name, text in texts.items()
    }


def evaluate_fields(expressions: Mapping[str, Expression], row: Row) -> Fields:
    """Return the fields of a row; raise a ``RowError`` with the field and Jinja's message."""
    values = {}
    columns = {ROW: dict(row.values), **row.values}
    for name, expression in expressions.items():
        try:
            value = expression(columns)
        except UndefinedError as error:
            available = format_list(row.values) or "no columns"
            fix = f"the row has {available}; write column | default('') for one that may be missing"
            raise _failed(name, error, fix, row) from error
        except Exception as error:  # a user's template may raise anything
            fix = "correct the text"
            raise _failed(name, error, fix, row) from error
        values[name] = _parse_rendered(value, name, row) if name in LIST_FIELDS and isinstance(value, str) else value
    return Fields(values, {name: f"{JINJA}{name}" for name in values}, row)


def columns_read(texts: Mapping[str, str]) -> frozenset[str] | None:
    """Return the columns that a user's texts name; None if a text uses the row as a whole.

    The texts must have been compiled without error.
    """
    names: set[str] = set()
    for text in texts.values():
        tree = _environment().parse(text)
        names |= find_undeclared_variables(tree)
        taken = [part for part in tree.find_all((nodes.Getattr, nodes.Getitem)) if _is_row(part.node)]
        keys = [_key(part) for part in taken]
        if None in keys or len(taken) < sum(map(_is_row, tree.find_all(nodes.Name))):
            return None
        names.update(key for key in keys if key is not None)
    return frozenset(names)


def _is_row(node: nodes.Node) -> bool:
    """Return whether a node is the variable of the row as a whole."""
    return isinstance(node, nodes.Name) and node.name == ROW


def _key(part: nodes.Getattr | nodes.Getitem) -> str | None:
    """Return the column of ``row.column`` or ``row['column']``; None if it is computed."""
    if isinstance(part, nodes.Getattr):
        return part.attr
    return part.arg.value if isinstance(part.arg, nodes.Const) and isinstance(part.arg.value, str) else None


def _environment() -> LimitedEnvironment:
    """Return a Jinja environment in which a missing column is an error, with ``tojson`` and ``fromjson``."""
    environment = LimitedEnvironment(undefined=StrictUndefined, autoescape=False)
    environment.filters["tojson"] = environment.guard("tojson", _to_json)
    environment.filters["fromjson"] = environment.guard("fromjson", parse_json)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _compile(environment: LimitedEnvironment, text: str, key: str, *, reads_row: bool) -> Expression:
    """Compile the text of one field; with ``reads_row``, refuse a text that is the same for every row."""
    try:
        tree = environment.parse(text)
        if reads_row and not _reads_names(tree):
            raise SftError(
                where=key,
                problem=f"{short_repr(text)} reads no column, so every row would get the same text",
                fix=f"write {{{{ {text.strip()} }}}} for the column of that name"
                if text.strip().isidentifier()
                else "write the column to read in double braces",
            )
        if _is_one_expression(tree) and text.strip().startswith("{{"):
            inner = text.strip()[2:-2].removeprefix("-").removeprefix("+").removesuffix("-").removesuffix("+")
            compiled = environment.compile_expression(inner, undefined_to_none=False)
            return _with_budget(environment, compiled)
        template = environment.from_string(text)
    except SftError:
        raise
    except TemplateSyntaxError as error:
        raise SftError(
            where=f"{key}, line {error.lineno}",
            problem=f"not valid Jinja: {error.message}",
            fix="compare brackets, quotation marks and {% end… %}; the text is Jinja over the columns of a row",
        ) from error
    except Exception as error:  # Jinja may raise anything on a user's template
        reason = f"it {error}" if isinstance(error, BudgetExceeded) else f"{type(error).__name__}: {error}"
        raise SftError(where=key, problem=f"cannot be compiled: {reason:.200}", fix="write it shorter") from error
    return _with_budget(environment, template.render)


def _with_budget(environment: LimitedEnvironment, render: Callable[[Mapping[str, Any]], Any]) -> Expression:
    """Return the expression with a new budget for each call; values that it yields lazily count as well."""

    def evaluate(columns: Mapping[str, Any]) -> Any:
        """Return the value of the expression as plain data."""
        environment.begin_render()
        return _to_plain(render(columns))

    return evaluate


def _reads_names(tree: nodes.Template) -> bool:
    """Return whether a text reads any variable."""
    return next(iter(tree.find_all(nodes.Name)), None) is not None


def _is_one_expression(tree: nodes.Template) -> bool:
    """Return whether a text is a single ``{{ … }}`` with at most white space around it."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return False
    pieces = [
        piece for piece in tree.body[0].nodes if not (isinstance(piece, nodes.TemplateData) and not piece.data.strip())
    ]
    return len(pieces) == 1 and not isinstance(pieces[0], nodes.TemplateData)


def _to_plain(value: Any) -> Any:
    """Return a value with lists in place of iterators; an undefined column in it raises."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(entry) for key, entry in value.items()}
    if isinstance(value, str | bytes | int | float | None):
        return value
    try:
        entries = iter(value)  # raises for an undefined value, with its name
    except TypeError:
        return value
    return [_to_plain(entry) for entry in entries]


def _parse_rendered(text: str, name: str, row: Row) -> Any:
    """Return the JSON value of a rendered list."""
    if not text.strip():
        return None
    try:
        return parse_json(text)
    except ValueError as error:
        raise RowError(
            where=row.where,
            reason=f"format.{name} is not JSON",
            problem=f"format.{name} renders to {short_repr(text)}, which is not JSON ({error})",
            fix="write values as {{ column | tojson }}, or make the whole text one {{ [ … ] }}",
        ) from error


def _failed(name: str, error: Exception, fix: str, row: Row) -> RowError:
    """Return the error for a field that Jinja cannot render for a row."""
    lines = str(error).splitlines()
    reason = lines[0] if lines else type(error).__name__
    return RowError(where=row.where, reason=f"format.{name} failed", problem=f"format.{name}: {reason}", fix=fix)
