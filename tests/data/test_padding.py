"""Padding by Arrow: its null entries are removed and counted, and maps become objects; intended nulls are kept."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.null_padding import pairs_to_object
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources.source_rows import read_source
from tests.data.helpers import ASK, messages

CITY, DAYS = {"type": "string"}, {"type": "integer"}


def tool(properties, name="f", **more):
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def called(arguments, tools, name="f"):
    """Return the converted arguments of a call, the tools and the notes."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    result = messages(
        ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, **({"tools": tools} if tools else {})
    )
    (made,) = result.messages[1].extra["tool_calls"]
    return made["function"]["arguments"], result.tools, result.remarks


@pytest.mark.parametrize(
    ("arguments", "properties", "expected", "kept"),
    [
        pytest.param({"city": "R", "x": None}, {"city": CITY, "x": None}, {"city": "R"}, {"city": CITY}, id="both"),
        pytest.param({"city": "R", "x": None}, {"city": CITY}, {"city": "R"}, {"city": CITY}, id="only-the-call"),
        pytest.param({"city": "R"}, {"city": CITY, "x": None}, {"city": "R"}, {"city": CITY}, id="only-the-schema"),
        pytest.param(
            {"city": "R"}, {"city": {**CITY, "enum": None, "items": None}}, {"city": "R"}, {"city": CITY}, id="keywords"
        ),
        pytest.param(
            {"city": "R"}, {"city": {**CITY, "default": None}, "x": None}, {"city": "R"}, {"city": CITY}, id="default"
        ),
        pytest.param(
            {"at": {"city": "R", "x": None}}, {"at": {"type": "object", "properties": {"city": CITY, "x": None}}},
            {"at": {"city": "R"}}, {"at": {"type": "object", "properties": {"city": CITY}}}, id="nested",
        ),
        pytest.param(
            {"at": [{"city": "R", "x": None}]},
            {"at": {"type": "array", "items": {"type": "object", "properties": {"city": CITY, "x": None}}}},
            {"at": [{"city": "R"}]},
            {"at": {"type": "array", "items": {"type": "object", "properties": {"city": CITY}}}}, id="in-a-list",
        ),
    ],
)  # fmt: skip
def test_padding_is_removed_and_counted(arguments, properties, expected, kept):
    result, tools, remarks = called(arguments, [tool(properties)])
    assert (result, tools, remarks) == (expected, (tool(kept),), ("padding",))


@pytest.mark.parametrize(
    ("arguments", "properties"),
    [
        pytest.param({"city": None}, {"city": CITY}, id="an-argument-of-the-schema"),
        pytest.param({"city": "R"}, {"city": {"type": ["string", "null"], "default": None}}, id="a-default-of-null"),
        pytest.param({"city": "R"}, {"city": {**CITY, "default": None}}, id="nothing-else-is-padded"),
        pytest.param({"city": "R"}, {"city": {**CITY, "enum": ["R", None]}}, id="a-value-of-an-enum"),
        pytest.param({"at": {"x": None}}, {"at": {"type": "object"}}, id="an-object-of-any-keys"),
        pytest.param('{"city": "R", "x": null}', {"city": CITY}, id="json-text-is-never-padded"),
    ],
)
def test_nullable_arguments_keep_null(arguments, properties):
    assert called(arguments, [tool(properties)]) == (arguments, (tool(properties),), ())


def test_strip_padding_removes_all_nulls_of_a_padded_schema():
    configured = tool({"city": CITY, "x": None}, description=None, strict=None)
    assert called({}, [configured])[1] == (tool({"city": CITY}),)
    configured = tool({"city": CITY}, strict=None)
    assert called({}, [configured])[1:] == ((configured,), ())


@pytest.mark.parametrize("tools", [None, [tool({}, name="g")], [{"type": "function", "function": {"name": "f"}}]])
def test_null_without_a_schema_is_refused(tools):
    with pytest.raises(RowError) as caught:
        called({"city": "R", "x": None}, tools)
    assert str(caught.value) == (
        "rows.jsonl:7: the call of f has null for x, and the row has no schema of the tool: it may be "
        "meant, or padding "
        "of a Parquet file\n  fix: add the tool to the row's tools, or write the arguments as JSON text"
    )


def test_pairs_become_an_object():
    assert pairs_to_object([["a", 1], ["b", [2]]]) == {"a": 1, "b": [2]}
    for value in ([], [1], [["a", 1], ["a", 2]], [["a", 1, 2]], [[1, "a"]], "a", None):
        assert pairs_to_object(value) == value
    schema = {"type": "object", "properties": [["city", CITY]]}
    configured = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert called([["city", "R"]], [configured])[:2] == ({"city": "R"}, (tool({"city": CITY}),))
    assert called([], [tool({})])[0] == {}


def test_maps_of_arrow_files_become_objects(tmp_path):
    text, number = pyarrow.string(), pyarrow.int64()
    arguments = pyarrow.map_(text, pyarrow.map_(text, number))
    calls = pyarrow.list_(pyarrow.struct({"name": text, "arguments": arguments}))
    kind = pyarrow.list_(pyarrow.struct({"role": text, "content": text, "tool_calls": calls}))
    call = {"name": "f", "arguments": [("at", [("x", 1), ("y", None)])]}
    rows = [[ASK, {"role": "assistant", "tool_calls": [call]}]]
    pyarrow.parquet.write_table(pyarrow.table({"messages": pyarrow.array(rows, kind)}), tmp_path / "rows.parquet")
    (row,) = read_source(SourceConfig(path=str(tmp_path / "rows.parquet")), "mine", "train")
    assert row.values["messages"][1]["tool_calls"][0]["arguments"] == {"at": {"x": 1, "y": None}}


def test_roles_of_data_sets_are_resolved(tmp_path):
    """Two tools whose schemas Arrow merged, in the JSON that ``Dataset.to_json`` writes."""
    rows = []
    for name, arguments, properties in (("a", {"city": "R"}, {"city": CITY}), ("b", {"days": 3}, {"days": DAYS})):
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        rows.append({"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}],
                     "tools": [tool(properties, name)]})  # fmt: skip
    aligned = [json.loads(json.dumps(row)) for row in pyarrow.Table.from_pylist(rows).to_pylist()]
    assert aligned[0]["tools"][0]["function"]["parameters"]["properties"] == {"city": CITY, "days": None}
    for row, written in zip(rows, aligned, strict=True):
        values = written["messages"], written["tools"]
        result = messages(*values[0], tools=values[1])
        plain = messages(*row["messages"], tools=row["tools"])
        assert (result.messages, result.tools) == (plain.messages, plain.tools)
        assert (result.remarks, plain.remarks) == (("padding",), ())
        assert make_converter(SourceConfig(), "mine", "\n", written).name == "messages"
