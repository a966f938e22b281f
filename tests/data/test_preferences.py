"""Rows with preferences: ``format=chosen`` keeps the good answers; ``auto`` refuses them with a fix that works."""

import json

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError, RowExcluded
from sft_cli.errors import SftError
from tests.data.helpers import convert, summarize

ASKED, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "A"), ("assistant", "B"))
)
PLAIN = [("user", "Q"), ("assistant", "A")]
EARLIER = [("user", "Q"), ("assistant", "A", 0.0)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"prompt": "Q", "chosen": "A", "rejected": "B"}, PLAIN, id="trl-texts"),
        pytest.param({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, PLAIN, id="trl-messages"),
        pytest.param({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PLAIN, id="trl-implicit-prompt"),
        pytest.param(
            {"chosen": [ASKED, GOOD, ASKED, GOOD], "rejected": [ASKED, GOOD, ASKED, BAD]}, [*EARLIER, *PLAIN],
            id="trl-implicit-several-turns",
        ),
        pytest.param({"prompt": "Q", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PLAIN, id="ultrafeedback"),
        pytest.param(
            {"prompt": json.dumps([ASKED]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])}, PLAIN,
            id="csv",
        ),
        pytest.param({"prompt": "Q", "chosen": '["A"]', "rejected": "B"}, [("user", "Q"), ("assistant", '["A"]')],
                     id="json"),
        pytest.param({"instruction": "Q", "input": "I", "chosen": "A", "rejected": "B"},
                     [("user", "Q\n\nI"), ("assistant", "A")], id="llamafactory-alpaca"),
        pytest.param(
            {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"},
             "rejected": {"from": "gpt", "value": "B"}},
            PLAIN, id="llamafactory-sharegpt",
        ),
        pytest.param({"messages": [ASKED, GOOD], "rejected_response": "B"}, PLAIN, id="ms-swift"),
        pytest.param({"messages": [ASKED, GOOD, ASKED, GOOD], "rejected_messages": [ASKED, BAD]}, [*EARLIER, *PLAIN],
                     id="ms-swift-several-turns"),
        pytest.param({"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}, [("system", "S"), *PLAIN],
                     id="orca"),
        pytest.param(
            {"chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: Q\n\nAssistant: A",
             "rejected": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: Q\n\nAssistant: B"},
            [*EARLIER, *PLAIN], id="hh-rlhf",
        ),
        pytest.param({"prompt": "Q", "completion": "A", "label": True}, PLAIN, id="kto"),
        pytest.param({"prompt": [ASKED], "completion": [GOOD], "label": 1}, PLAIN, id="kto-messages"),
        pytest.param({"messages": [ASKED, GOOD, ASKED, GOOD], "label": True}, [*EARLIER, *PLAIN], id="kto-ms-swift"),
        pytest.param(
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "kto_tag": True},
            PLAIN, id="kto-llamafactory",
        ),
        pytest.param({"prompt": "Q", "completion": "A", "label": "True"}, PLAIN, id="kto-csv"),
    ],
)  # fmt: skip
def test_format_chosen_keeps_the_good_answer(row, expected):
    """Only the good answer is trained; ``auto`` suggests the format."""
    assert summarize(convert(row, "chosen")) == expected
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(), "mine", "\n\n", row)
    assert caught.value.where == "data.mix.mine.format"
    assert caught.value.fix.startswith("data.mix.mine.format=chosen trains on ")


def test_auto_refuses_preferences():
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(), "mine", "\n", {"prompt": "Q", "chosen": "A", "rejected": "B"})
    assert str(caught.value) == (
        "data.mix.mine.format: the columns chosen, rejected judge the answers, which format=auto does not handle\n"
        "  fix: data.mix.mine.format=chosen trains on the chosen answers only"
    )
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(), "mine", "\n", {"messages": [], "label": True})
    assert str(caught.value) == (
        "data.mix.mine.format: the column label seems to mark good answers, which format=auto does not handle\n"
        "  fix: data.mix.mine.format=chosen trains on rows whose label is true; 'data.mix.mine.ignore=[label]' "
        "trains on every row"
    )
    with pytest.raises(SftError, match="the columns Chosen, Rejected judge the answers"):
        make_converter(SourceConfig(), "mine", "\n", {"Prompt": "Q", "Chosen": "A", "Rejected": "B"})
    row = {"question": "Q", "answer": "A", "label": "easy"}
    assert convert(row, tags={"label": "label"}).tags == {"label": "easy"}
    assert make_converter(SourceConfig(), "mine", "\n", {"text": "T", "label": 1}).name == "text"


@pytest.mark.parametrize("label", [False, 0, "false", "0"])
def test_bad_answer_is_dropped_and_counted(label):
    with pytest.raises(RowExcluded) as caught:
        convert({"prompt": "Q", "completion": "A", "label": label}, "chosen")
    assert (caught.value.reason, caught.value.by) == ("label is false", "chosen")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q", "completion": "A", "label": "bad"},
         "field 'label' is 'bad' (text); expected true or false\n"
         "  fix: write it as true or false, or point columns at another column"),
        ({"prompt": "Q", "completion": "A", "label": None},
         "the row has no prompt with a chosen answer; it has prompt, completion\n"
         "  fix: add the column chosen, or a label of true to the answer"),
        ({"prompt": "Q", "chosen": "", "rejected": "B"},
         "the row has no prompt with a chosen answer; it has prompt, rejected\n"
         "  fix: add the column chosen, or a label of true to the answer"),
        ({"prompt": "Q", "chosen": [{"role": "user", "content": "R"}, GOOD], "rejected": [BAD]},
         "the chosen conversation begins with another question than the row's own\n"
         "  fix: remove one of the two columns"),
    ],
)  # fmt: skip
def test_rows_without_a_good_answer_are_refused(row, expected):
    with pytest.raises(RowError) as caught:
        convert(row, "chosen")
    assert str(caught.value) == f"rows.jsonl:7: {expected}"


def test_unneeded_columns_are_noted():
    row = {"prompt": "Q", "chosen": "A", "rejected": "B", "messages": [ASKED, BAD], "query": "R"}
    result = convert(row, "chosen")
    assert (summarize(result), result.not_read) == (PLAIN, ("messages", "query"))
