"""Every row of real files either converts or says why not."""

from collections import Counter

import pytest

from sft_cli.config.schema import SourceConfig
from sft_cli.data.formats import choose, convert
from sft_cli.data.problems import RowError
from sft_cli.data.sources import read
from sft_cli.data.types import Row
from sft_cli.errors import SftError

pytestmark = pytest.mark.material


def outcome(path, **config):
    """The format that was recognised, and rows per outcome: converted, or the reason."""
    rows = list(read(SourceConfig(path=str(path), **config), "mine", "train"))
    assert all(isinstance(row, Row) for row in rows)
    format = choose("auto", rows[0].values, config.get("columns", {}), "mine")
    counts = Counter()
    for row in rows:
        try:
            convert(row, format, config.get("columns", {}), "\n\n")
            counts["converted"] += 1
        except RowError as error:
            counts[error.reason if error.where == row.where else "wrong place"] += 1
    return format, dict(counts)


@pytest.mark.parametrize(
    ("path", "format", "counts"),
    [
        ("alpaca/alpaca_en_demo.json", "alpaca", {"converted": 999}),
        ("alpaca/alpaca_tiny.json", "alpaca", {"converted": 100}),
        ("alpaca/code_alpaca_2k.json", "alpaca", {"converted": 2017}),
        ("alpaca/gsm_8k_train.json", "alpaca", {"converted": 7473}),
        ("alpaca/identity.json", "alpaca", {"converted": 91}),
        ("sharegpt/dummy_conversation.json", "sharegpt", {"converted": 500}),
        ("sharegpt/glaive_toolcall_en_demo.json", "sharegpt", {"converted": 147, "function_call turn": 153}),
        ("messages/drone_double_encoded_excerpt.jsonl", "messages", {"converted": 1}),
        ("messages/reason_tool_use_demo_50.jsonl", "messages", {"content part of type reasoning": 50}),
        ("messages/toy_chat_first4.jsonl", "messages", {"converted": 4}),
        ("messages/v1_sft_demo.jsonl", "messages", {"converted": 500}),
        ("text/c4_demo.jsonl", "text", {"converted": 300}),
        ("variants/alpaca.csv", "alpaca", {"converted": 3}),
        ("variants/alpaca.jsonl", "alpaca", {"converted": 3}),
        ("variants/alpaca2.csv", "alpaca", {"converted": 3}),
        ("variants/chatml.jsonl", "messages", {"converted": 3}),
        ("variants/conversations.jsonl", "sharegpt", {"converted": 3}),
    ],
)
def test_real_files(material_dir, path, format, counts):
    assert outcome(material_dir / "data" / path) == (format, counts)


@pytest.mark.parametrize("path", ["swift_multi.json", "swift_multi.jsonl", "swift_single.csv", "swift_single.jsonl"])
def test_other_names_are_proposed_and_then_work(material_dir, path):
    with pytest.raises(SftError) as caught:
        outcome(material_dir / "data" / "variants" / path)
    assert caught.value.fix == "name yours, for example columns={prompt: query, completion: response}"
    columns = {"prompt": "query", "completion": "response"}
    found = outcome(material_dir / "data" / "variants" / path, columns=columns)
    assert found == ("prompt_completion", {"converted": 3})


@pytest.mark.parametrize(
    "path",
    ["oasst/en_100_message.jsonl", "oasst/en_100_tree.jsonl", "seeds/seed_tasks.jsonl", "variants/swift_pre.jsonl"],
)
def test_shapes_that_no_format_reads_are_refused(material_dir, path):
    with pytest.raises(SftError, match="no format fits the columns"):
        outcome(material_dir / "data" / path)


def test_a_directory_of_real_files(material_dir):
    format, counts = outcome(material_dir / "data" / "alpaca")
    assert (format, counts) == ("alpaca", {"converted": 10680})
