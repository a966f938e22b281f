"""Check that an answer is JSON, and that it follows a JSON Schema."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sft_cli.scoring.base import MeanScorer, OptionError, item_error, require_packages
from sft_cli.scoring.bounded import call_bounded
from sft_cli.scoring.types import Answer, Item, Verdict
from sft_cli.utils.text import parse_json

FENCED = re.compile(r"\s*```[ \t]*(?:json|JSON)?[ \t]*\n(?P<inside>.*)\n[ \t]*```\s*", re.DOTALL)
SECONDS = 5.0
"""Limit of time for one validation."""


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(f"{name} is not JSON")


def read_json_answer(text: str, *, fenced: bool) -> Any:
    """Return the JSON value that a whole answer is, or, if ``fenced``, the one code block that it is.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    match = FENCED.fullmatch(text) if fenced else None
    inside = match["inside"] if match else text
    value = parse_json(inside.strip())
    json.loads(inside.strip(), parse_constant=_refuse_constant)
    return value


@dataclass(frozen=True, slots=True)
class JsonValid(MeanScorer):
    """``json_valid``: the answer is JSON and nothing else.

    Attributes:
        fenced: Whether the JSON may be in a code block.
    """

    fenced: bool = True

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the answer is JSON."""
        try:
            read_json_answer(answer.text, fenced=self.fenced)
        except ValueError as error:
            return Verdict({"json_valid": 0.0}, f"not JSON: {error}")
        return Verdict({"json_valid": 1.0})


@dataclass(frozen=True, slots=True)
class JsonSchemaMatch(MeanScorer):
    """``json_schema``: the answer is JSON that follows a schema; ``json_valid`` is given, too.

    Attributes:
        schema: The schema; None: each item has its own.
        column: Column of the items with their schema, a mapping or JSON text.
        fenced: Whether the JSON may be in a code block.
    """

    schema: Mapping[str, Any] | None = None
    column: str = "schema"
    fenced: bool = True

    def __post_init__(self) -> None:
        require_packages("json_schema", "jsonschema")
        if self.schema is not None and (problem := _invalid_schema(self.schema)):
            raise OptionError("schema", problem, "correct the schema")

    def check_items(self, items: Iterable[Item]) -> None:
        """Refuse an item without a valid schema, before the model answers."""
        for item in items:
            self._schema_of(item)

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the answer follows the schema."""
        schema = self._schema_of(item)
        try:
            value = read_json_answer(answer.text, fenced=self.fenced)
        except ValueError as error:
            return Verdict({"json_valid": 0.0, "json_schema": 0.0}, f"not JSON: {error}")
        try:
            reason = call_bounded("find_schema_error", schema, value, seconds=SECONDS)
        except TimeoutError as error:
            reason = str(error)
        return Verdict({"json_valid": 1.0, "json_schema": float(reason is None)}, reason or "")

    def _schema_of(self, item: Item) -> Any:
        """Return the schema of an item."""
        if self.schema is not None:
            return dict(self.schema)
        schema = item.fields.get(self.column)
        if isinstance(schema, str):
            try:
                schema = parse_json(schema)
            except ValueError as error:
                raise item_error(item, f"{self.column} is not JSON: {error}", "correct the item's row") from error
        if not isinstance(schema, Mapping | bool):
            raise item_error(
                item,
                f"the column {self.column} has no JSON Schema",
                "add one, or eval.suites.NAME.options.column=COLUMN",
            )
        if isinstance(schema, Mapping) and (problem := _invalid_schema(schema)):
            raise item_error(item, problem, "correct the item's row")
        return schema


def _invalid_schema(schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a schema; None if it is valid."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(dict(schema))
    except SchemaError as error:
        return f"not a JSON Schema: {error.json_path}: {error.message}"[:300]
    return None
