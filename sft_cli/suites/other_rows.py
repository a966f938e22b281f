"""For each row of a suite another one, whose answer is wrong for it."""

from collections.abc import Sequence

from sft_cli.suites.fields import SuiteFields
from sft_cli.types import Row
from sft_cli.utils.hashing import json_digest


class OtherRows:
    """The row after each row that has another answer; the first follows the last.

    Args:
        rows: All rows of the file.
        fields: The texts of the suite.
    """

    def __init__(self, rows: Sequence[Row], fields: SuiteFields) -> None:
        self._rows, self._fields, self._targets = rows, fields, dict[int, str]()
        self._places = {id(row): place for place, row in enumerate(rows)}

    def after(self, row: Row) -> Row:
        """Return the next row with another answer; the row itself if all have the same."""
        start = self._places[id(row)]
        places = [(start + step) % len(self._rows) for step in range(1, len(self._rows))]
        return next((self._rows[place] for place in places if self._target(place) != self._target(start)), row)

    def _target(self, place: int) -> str:
        if place not in self._targets:
            self._targets[place] = json_digest(self._fields.evaluate(self._rows[place]).get("target"))
        return self._targets[place]
