"""Fuzz the row formats with rows of arbitrary JSON and variations of every known format."""

from typing import Any

from hypothesis import strategies as st

from sft_cli.config.schema.data import Placeholders, SourceConfig
from sft_cli.data.formats.row_converter import FORMATS, make_converter
from sft_cli.types import Row

_TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "user",
            "assistant",
            "system",
            "tool",
            "human",
            "gpt",
            "{{ x }}",
            "{{",
            "<|im_end|>",
            "\x00",
            "\ud83d",
            "[",
            "{",
        ]
    ),
)
_SPOKEN = ("role", "content", "from", "value", "name", "tool_calls", "function", "arguments", "type", "replies", "rank")
_KEYS = st.sampled_from([*sorted({name for shape in FORMATS.values() for name in shape.reads}), *_SPOKEN])
_ANY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        _TEXT,
        st.sampled_from([10**30, -1, float("nan"), "1e999"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _TEXT, inner, max_size=4),
    max_leaves=12,
)
_EXAMPLES = [shape.example for shape in FORMATS.values()]


def _altered(case: tuple[dict[str, Any], list[tuple[int, Any]]]) -> Any:
    """Return an example with random values in it replaced."""
    example, edits = case
    for place, value in edits:
        example, _ = _put(example, place % 9, value)
    return example


def _put(value: Any, place: int, new: Any) -> tuple[Any, int]:
    if place == 0:
        return new, -1
    place -= 1
    if isinstance(value, dict):
        pairs = list(value.items())
        for index, (name, entry) in enumerate(pairs):
            if place >= 0:
                changed, place = _put(entry, place, new)
                pairs[index] = name, changed
        return dict(pairs), place
    if isinstance(value, list):
        entries = list(value)
        for index, entry in enumerate(entries):
            if place >= 0:
                entries[index], place = _put(entry, place, new)
        return entries, place
    return value, place


_NEAR = st.tuples(st.sampled_from(_EXAMPLES), st.lists(st.tuples(st.integers(1, 8), _ANY), max_size=2)).map(_altered)
_ROWS = st.one_of(_NEAR, _NEAR, st.dictionaries(_KEYS | _TEXT, _ANY, max_size=5)).filter(
    lambda row: isinstance(row, dict)
)
_FORMATS = st.sampled_from(
    [
        *["auto"] * 4,
        *FORMATS,
        {"messages": "{{ messages }}"},
        {"prompt": "{{ prompt }}", "completion": "{{ completion | tojson }}"},
        {"messages": "[{% for m in messages %}{{ m | tojson }},{% endfor %}]"},
        {"text": "{{ text * 10 ** 9 }}"},
        {"text": "{% for a in row.values() %}{{ a }}{% endfor %}"},
    ]
)
INPUTS = st.tuples(
    _ROWS,
    _FORMATS,
    st.sampled_from(Placeholders),
    st.dictionaries(st.sampled_from(["prompt", "messages", "a"]), _TEXT, max_size=1),
    st.sampled_from([{}, {}, {"lang": "a"}]),
)


def target(case: Any) -> str | None:
    """Convert a row, and traverse the result."""
    values, format, placeholders, columns, tags = case
    config = SourceConfig(path="x.jsonl", format=format, placeholders=placeholders, columns=columns, tags=tags)
    row = Row({str(name): value for name, value in values.items()}, "x.jsonl:1", "a")
    read = make_converter(config, "a", "\n", row.values)
    for found in read.convert_all([row]) if read.needs_all_rows else read.convert(row):
        repr(found)
    return None
