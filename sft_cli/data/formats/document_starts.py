"""Where the documents begin that another tool packed into one row of token ids."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.fields import Fields, parse_list, wrong_type
from sft_cli.data.row_errors import RowError, format_list, short_repr

POSITIONS = "position_ids"
"""Positions that start again at 0 with each document."""
LENGTHS = ("seq_lengths", "sequence_lengths", "seq_lens", "seqlens")
"""Tokens of each document, in order."""
ENDS = "cu_seqlens"
"""0 and the end of each document."""
SEGMENTS = ("document_ids", "segment_ids", "sequence_ids", "seq_idx", "doc_ids")
"""A number for each token, another one for each document; an attention mask with numbers above 1 is one, too."""
COLUMNS = (POSITIONS, *LENGTHS, ENDS, *SEGMENTS)


def find_document_starts(fields: Fields, kept: range, num_ids: int, trained: Sequence[bool]) -> list[int]:
    """The tokens at which documents begin, ascending; the first is that of ``kept``.

    Args:
        fields: The row.
        kept: The tokens that are not padding.
        num_ids: Tokens of the row, padding counted.
        trained: ``(num_ids,)``: which tokens carry loss.

    Raises:
        RowError: A column does not fit, or two of them contradict each other.
    """
    found: dict[str, list[int]] = {}
    last = max((t for t in kept if trained[t]), default=kept.start)
    for name in (*COLUMNS, "attention_mask"):
        if (
            fields.values.get(name) is not None
            and (column_starts := _starts_in(fields, name, kept, num_ids)) is not None
        ):
            found[name] = sorted({kept.start, *(start for start in column_starts if start in kept)})
    if not found:
        return [kept.start]
    (first, agreed), *others = found.items()
    for name, other in others:
        # Behind the last trained token there is padding, however it is counted.
        if [start for start in other if start <= last] != [start for start in agreed if start <= last]:
            problem = (
                f"says that documents begin at tokens {format_list(map(str, other))}, and {fields.columns[first]} says"
                f" at {format_list(map(str, agreed))}"
            )
            left_out = format_override(f"data.mix.{fields.row.source}.ignore", [fields.columns[name]])
            raise invalid_column(fields, name, problem, f"{left_out} if {fields.columns[first]} is right")
    return agreed


def _starts_in(fields: Fields, name: str, kept: range, num_ids: int) -> list[int] | None:
    """Where one column says that documents begin; None where it says nothing about that."""
    if name == POSITIONS:
        return _by_position(fields, kept, integer_column(fields, name, num_ids))
    if name in LENGTHS or name == ENDS:
        return _by_length(fields, name, kept, num_ids)
    numbers = token_numbers(fields, name, num_ids)
    if name == "attention_mask" and max(numbers) <= 1:
        return None
    return [t for t in kept if t > kept.start and numbers[t] != numbers[t - 1]]


def _by_position(fields: Fields, kept: range, positions: list[int]) -> list[int]:
    """The tokens at position 0; between them positions count up by one."""
    if positions[kept.start] != 0:
        problem = f"begins with {positions[kept.start]}, in the middle of a document"
        raise invalid_column(fields, POSITIONS, problem, "write whole documents, their positions from 0")
    for before, t in pairwise(kept):
        if positions[t] not in (0, positions[before] + 1):
            problem = f"is {positions[t]} at token {t}, behind {positions[before]}"
            raise invalid_column(fields, POSITIONS, problem, "let positions count up by one, or start again at 0")
    return [t for t in kept if positions[t] == 0]


def _by_length(fields: Fields, name: str, kept: range, num_ids: int) -> list[int]:
    """The sums of the lengths; they are those of all tokens, or of those that are not padding."""
    values = integer_column(fields, name)
    if name == ENDS:
        values = [end - start for start, end in pairwise(values)] if values[0] == 0 else [-1]
    if min(values, default=0) < 0:
        raise invalid_column(fields, name, "does not ascend from 0", "write 0 and the end of each document")
    total = sum(values)
    if total not in (num_ids, len(kept)):
        raise invalid_column(
            fields, name, f"adds up to {total} for {num_ids} token ids", "write the length of each document"
        )
    offset = 0 if total == num_ids else kept.start
    return [offset + start for start in accumulate(values[:-1], initial=0)]


def token_numbers(fields: Fields, name: str, num_ids: int) -> list[int]:
    """A number of at least 0 for each token."""
    numbers = integer_column(fields, name, num_ids)
    if min(numbers) < 0:
        raise invalid_column(fields, name, f"holds {min(numbers)}", "write numbers of at least 0")
    return numbers


def integer_column(fields: Fields, name: str, length: int | None = None) -> list[int]:
    """A column of whole numbers (true and false count as 1 and 0 in a mask), of the given length."""
    value: Any = parse_list(fields.values[name])
    whole = {int} if name in ("input_ids", "labels") else {int, bool}
    if not isinstance(value, list) or not set(map(type, value)) <= whole:
        raise wrong_type(value, fields.columns[name], "a list of whole numbers", fields.row.where)
    if length is None and not value:
        raise invalid_column(fields, name, "has no tokens", "remove the row")
    if length is not None and len(value) != length:
        raise invalid_column(
            fields, name, f"has {len(value)} entries for {length} token ids", "write one for each token"
        )
    return list(map(int, value))


def invalid_column(fields: Fields, name: str, problem: str, fix: str) -> RowError:
    """The error for a column whose numbers do not fit."""
    column = fields.columns[name]
    return RowError(
        where=fields.row.where, reason=f"invalid {name}", problem=f"field {short_repr(column)} {problem}", fix=fix
    )
