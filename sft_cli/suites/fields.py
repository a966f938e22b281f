"""The texts of a suite, Jinja over the columns of a row."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jinja2 import UndefinedError

from sft_cli.config.schema.suites import SuiteConfig, SuiteKind
from sft_cli.data.formats.jinja_format import Expression, compile_fields
from sft_cli.data.row_errors import format_list, short_repr
from sft_cli.errors import SftError
from sft_cli.types import Row

CONSTANT = ("system", "choices", "tools", "cluster", "target", "second_prompt", "second_target")
"""Fields that may be the same for every row."""


class SuiteFields:
    """The compiled texts of a suite."""

    def __init__(self, name: str, suite: SuiteConfig) -> None:
        """Compile the texts.

        Raises:
            SftError: A text is not valid Jinja.
        """
        self._key = f"eval.suites.{name}"
        texts: dict[str, str | None] = {"id": suite.id, "cluster": suite.cluster, "tools": suite.tools}
        if suite.messages is None:
            texts |= {"system": suite.system, "prompt": suite.prompt}
        else:
            texts |= {"messages": suite.messages}
        is_choices = suite.kind is SuiteKind.choices
        texts |= {"choices": suite.choices, "gold": suite.gold} if is_choices else {"target": suite.target}
        self._fields = compile_fields({n: text for n, text in texts.items() if text is not None}, self._key, CONSTANT)
        second = {"second_prompt": suite.second_prompt, "second_target": suite.second_target}
        self._second = compile_fields({n: text for n, text in second.items() if text is not None}, self._key, CONSTANT)
        self._phrasings = compile_fields(suite.variants.prompts, f"{self._key}.variants.prompts")
        self._tags = compile_fields(suite.tags, f"{self._key}.tags")
        self._answer = (
            compile_fields({"answer": suite.shots.answer}, f"{self._key}.shots")["answer"]
            if suite.shots.count and not is_choices
            else None
        )

    def evaluate(self, row: Row) -> dict[str, Any]:
        """Return the value of each field of a row.

        Raises:
            SftError: A column is missing, or a text fails.
        """
        return {name: self._value(name, expression, row) for name, expression in self._fields.items()}

    def id(self, row: Row) -> str:
        """Return the id of a row; empty if the suite gives none."""
        return str(self._value("id", self._fields["id"], row)).strip() if "id" in self._fields else ""

    def second_turn(self, row: Row, other: Row) -> dict[str, Any]:
        """Return ``second_prompt`` and ``second_target`` of a row.

        Args:
            row: The row.
            other: A row with another answer, the variable ``other`` of the texts.
        """
        whole = replace(row, values={"other": dict(other.values), **row.values})
        return {name: self._value(name, expression, whole) for name, expression in self._second.items()}

    def phrasing(self, variant: str, row: Row) -> Any:
        """Return the prompt of a variant that has one of its own."""
        return self._value(f"variants.prompts.{variant}", self._phrasings[variant], row)

    def tags(self, row: Row) -> dict[str, str]:
        """Return the tags of a row."""
        return {name: str(self._value(f"tags.{name}", expression, row)) for name, expression in self._tags.items()}

    def answer(self, row: Row) -> str:
        """Return the answer that a solved example shows."""
        assert self._answer is not None
        return str(self._value("shots.answer", self._answer, row))

    def _value(self, name: str, expression: Expression, row: Row) -> Any:
        columns: Mapping[str, Any] = {"row": dict(row.values), **row.values}
        try:
            return expression(columns)
        except UndefinedError as error:
            fix = (
                f"the row has {format_list(row.values) or 'no columns'}; correct its columns in {self._key}.{name},"
                f" or {self._key}.path=FILE"
            )
            raise self.error(row, name, str(error), fix) from error
        except Exception as error:  # a user's text may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise self.error(row, name, reason, f"correct {self._key}.{name}, or the row") from error

    def error(self, row: Row, name: str, problem: str, fix: str = "") -> SftError:
        """Return the error for a field of a row."""
        fix = fix or f"correct the row, or {self._key}.{name}"
        return SftError(where=row.where, problem=f"{self._key}.{name}: {problem}", fix=fix)

    def wrong_value(self, row: Row, name: str, value: Any, expected: str) -> SftError:
        """Return the error for a field whose value has the wrong type."""
        return self.error(row, name, f"{short_repr(value)} is not {expected}")
