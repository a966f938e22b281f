"""Every row of real files converts; the table gives the format that ``auto`` detects and the results."""

from collections import Counter

import pytest

from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources.source_rows import read_source
from sft_cli.errors import SftError
from sft_cli.types import Row

pytestmark = pytest.mark.material


def conversations(path, **config):
    """Return the format of a file, and the conversations or the error of every row."""
    source = SourceConfig(path=str(path), **config)
    rows = list(read_source(source, "mine", "train"))
    assert all(isinstance(row, Row) for row in rows)
    result = make_converter(source, "mine", "\n\n", rows[0].values)
    made = []
    for row in rows:
        try:
            made += result.convert(row)
        except RowError as error:
            made.append(error)
    assert {item.where for item in made} <= {row.where for row in rows}
    return result.name, made


def outcome(path, **config):
    """Return the detected format and the rows per outcome: the kind of result with its tags, or the reason."""
    format, result = conversations(path, **config)
    counts = Counter()
    for item in result:
        if isinstance(item, RowError):
            counts[item.reason] += 1
            continue
        counts["document" if item.text is not None else "converted"] += 1
        counts.update(f"{tag}: {value}" for tag, value in item.tags.items())
    return format, dict(counts)


KEPT = "unfilled placeholder"


@pytest.mark.parametrize(
    ("path", "format", "counts"),
    [
        ("alpaca/alpaca_en_demo.json", "alpaca", {"converted": 999}),
        ("alpaca/alpaca_tiny.json", "alpaca", {"converted": 100}),
        ("alpaca/code_alpaca_2k.json", "alpaca", {"converted": 2017}),
        ("alpaca/gsm_8k_train.json", "alpaca", {"converted": 7473}),
        ("alpaca/identity.json", "alpaca", {"converted": 6, KEPT: 85}),
        ("sharegpt/dummy_conversation.json", "sharegpt", {"converted": 500}),
        ("sharegpt/glaive_toolcall_en_demo.json", "sharegpt", {"converted": 300}),
        (
            "messages/drone_double_encoded_excerpt.jsonl",
            "messages",
            {"converted": 1, "repaired: tool arguments encoded twice": 1},
        ),
        ("messages/reason_tool_use_demo_50.jsonl", "messages", {"converted": 50}),
        ("messages/toy_chat_first4.jsonl", "messages", {"converted": 4}),
        ("messages/v1_sft_demo.jsonl", "messages", {"converted": 450, KEPT: 50}),
        ("oasst/en_100_message.jsonl", "tree_root", {"converted": 100, "language: en": 100}),
        ("oasst/en_100_tree.jsonl", "tree", {"converted": 100, "language: en": 100}),
        ("text/c4_demo.jsonl", "text", {"document": 300}),
        ("text/wiki_demo.txt", "text", {"document": 1}),
        ("variants/alpaca.csv", "alpaca", {"converted": 3}),
        ("variants/alpaca.jsonl", "alpaca", {"converted": 3}),
        ("variants/alpaca2.csv", "alpaca", {"converted": 3}),
        ("variants/chatml.jsonl", "messages", {"converted": 3}),
        ("variants/conversations.jsonl", "sharegpt", {"converted": 3}),
        ("variants/sharegpt.jsonl", "conversation", {"converted": 3}),
        ("variants/swift_multi.json", "query_response", {"converted": 3}),
        ("variants/swift_multi.jsonl", "query_response", {"converted": 3}),
        ("variants/swift_single.csv", "query_response", {"converted": 3}),
        ("variants/swift_single.jsonl", "query_response", {"converted": 3}),
        ("variants/swift_pre.csv", "response", {"document": 3}),
        ("variants/swift_pre.jsonl", "response", {"document": 3}),
    ],
)
def test_real_files(material_dir, path, format, counts):
    assert outcome(material_dir / "data" / path) == (format, counts)


def test_every_variant_is_in_the_table(material_dir):
    (table,) = [mark for mark in test_real_files.pytestmark if mark.name == "parametrize"]
    named = {path for path, *_ in table.args[1]}
    folder = material_dir / "data"
    assert {file.relative_to(folder).as_posix() for file in (folder / "variants").iterdir()} <= named


@pytest.mark.parametrize("path", ["alpaca/identity.json", "messages/v1_sft_demo.jsonl"])
def test_placeholders_are_filled_in_real_files(material_dir, path):
    _, result = conversations(material_dir / "data" / path, variables={"name": "Ada", "author": "us"})
    output = [message.content for conversation in result for message in conversation.messages]
    assert any("Ada" in text for text in output)
    assert not any("{{" in text for text in output)


def test_placeholder_without_a_value_in_a_real_file(material_dir):
    _, counts = outcome(material_dir / "data" / "alpaca/identity.json", variables={"name": "Ada"})
    assert counts == {"converted": 31, "unfilled placeholder": 60}


def test_code_about_templates_needs_no_variables(material_dir):
    """Answers with {{ user.name }} and {{1,2},{3}} are unchanged."""
    _, result = conversations(material_dir / "data" / "alpaca/code_alpaca_2k.json")
    output = "".join(message.content for conversation in result for message in conversation.messages)
    for text in ("{{ user.name }}", "{{book.title}}", "{{1,2,3,4},{5,6,7,8},{9,10,11,12}}"):
        assert text in output


def test_seed_tasks_need_a_custom_format(material_dir):
    for file in ("seed_tasks.jsonl", "user_oriented_instructions.jsonl"):
        path = material_dir / "data" / "seeds" / file
        with pytest.raises(SftError, match="no format fits the columns"):
            outcome(path)
        first = "{{ instances[0].%s }}"
        format = {"instruction": "{{ instruction }}", "input": first % "input", "output": first % "output"}
        _, counts = outcome(path, format=format)
        assert set(counts) == {"converted"}


def test_tool_calls_of_real_files(material_dir):
    """Every call has a name and arguments, and the tools have the form of a request."""
    count = 0
    for path in ("sharegpt/glaive_toolcall_en_demo.json", "messages/reason_tool_use_demo_50.jsonl"):
        for conversation in conversations(material_dir / "data" / path)[1]:
            for message in conversation.messages:
                for call in message.extra.get("tool_calls", []):
                    assert message.role == "assistant"
                    assert call["function"]["name"]
                    assert isinstance(call["function"]["arguments"], dict)
                    count += 1
            assert all(tool["function"]["name"] for tool in conversation.tools or ())
    assert count == 211 + 68


def test_plain_text_can_be_replayed(material_dir):
    assert outcome(material_dir / "data" / "text/c4_demo.jsonl", role=Role.replay) == ("text", {"document": 300})


def test_directory_of_real_files(material_dir):
    format, counts = outcome(material_dir / "data" / "alpaca")
    assert (format, counts) == ("alpaca", {"converted": 10595, KEPT: 85})
