"""Items with instructions that cannot be checked, and the published items."""

import json

import pytest

from sft_cli.errors import SftError
from sft_cli.scoring import base
from sft_cli.scoring.instructions.read import check_items, items_that_may_differ, read_instructions
from sft_cli.scoring.instructions.scorer import InstructionScorer
from sft_cli.scoring.types import Answer, Item
from tests.scoring.instruction_helpers import is_followed, item


@pytest.mark.parametrize(
    ("fields", "problem", "fix"),
    [
        (
            {"instruction_id_list": ["keywords:existense"], "kwargs": [{}]},
            "no instruction with this id",
            "keywords:existence",
        ),
        (
            {"instruction_id_list": ["count:numbers"], "kwargs": [{"N": 1}]},
            "ifeval has no instruction",
            "keywords:existence",
        ),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"x": 1}]}, "unknown argument 'x'", "none"),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bulets": 1}]},
            "unknown argument",
            "did you mean num_bullets?",
        ),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": None}]},
            "'num_bullets' is missing",
            "add num_bullets",
        ),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": 1.5}]},
            "1.5 is not a whole number",
            "write",
        ),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": True}]},
            "True is not a whole number",
            "write",
        ),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": -1}]},
            "-1 is not a whole number",
            "write",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 1, "relation": "most"}],
            },
            "'most' is not 'less than'",
            "write",
        ),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "cat"}]},
            "'cat' is not a list",
            "write",
        ),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": []}]}, "[] is not a list", "write"),
        (
            {"instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": " "}]},
            "' ' is not a text",
            "write",
        ),
        (
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]},
            "'xx' is not",
            "langdetect",
        ),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "1 instructions have 0 kwargs", "as many"),
        ({"instruction_id_list": [], "kwargs": []}, "not a list of ids", "give each item"),
        ({"kwargs": []}, "not a list of ids", "give each item"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "kwargs is not a list", "give each item"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]}, "kwargs is not a list", "give each item"),
    ],
)
def test_an_item_that_cannot_be_checked_is_refused(fields, problem, fix):
    wrong = Item("bad-9", (), fields=fields)
    with pytest.raises(SftError) as caught:
        InstructionScorer("ifeval").check_items([item(("punctuation:no_comma", {})), wrong])
    assert caught.value.where.startswith("item bad-9")
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    with pytest.raises(SftError):
        InstructionScorer("ifeval").score(wrong, Answer("any"))


def test_all_items_that_cannot_be_checked_are_named():
    wrong = [Item(name, (), fields={"instruction_id_list": [name], "kwargs": [{}]}) for name in ("one", "two")]
    with pytest.raises(SftError, match=r"(?s)item one.*item two"):
        check_items(wrong, "ifbench")


def test_arguments_of_other_instructions_may_be_null():
    assert is_followed("ifeval", "punctuation:no_comma", {"num_words": None}, "one")


def test_a_missing_library_is_refused_with_its_extra(monkeypatch):
    monkeypatch.setattr(
        "sft_cli.utils.optional_deps.find_spec", lambda module: None if module == "langdetect" else module
    )
    with pytest.raises(base.OptionError, match="needs langdetect, which is not installed") as caught:
        InstructionScorer("ifeval")
    assert caught.value.fix == "pip install 'sft-cli[eval]'"


@pytest.mark.material
@pytest.mark.parametrize(
    ("file", "form", "num_items", "num_types"),
    [
        ("ifeval_input.jsonl", "ifeval", 541, 25),
        ("ifeval_input.jsonl", "ifeval_fixed", 541, 25),
        ("IFBench_test.jsonl", "ifbench", 300, 58),
    ],
)
def test_every_published_item_is_read(file, form, num_items, num_types, material_dir):
    rows = [json.loads(line) for line in (material_dir / "eval" / file).read_text("utf-8").splitlines()]
    items = [Item(str(row["key"]), (), fields=row) for row in rows]
    InstructionScorer(form).check_items(items)
    types: set[str] = set()
    for row, one in zip(rows, items, strict=True):
        instructions = read_instructions(one, form)
        types |= {instruction.id for instruction in instructions}
        if form != "ifeval_fixed":
            given = [{name for name, value in kwargs.items() if value is not None} for kwargs in row["kwargs"]]
            assert [set(instruction.kwargs) for instruction in instructions] == given
    assert (len(items), len(types)) == (num_items, num_types)


@pytest.mark.material
def test_published_items_that_may_differ(material_dir):
    rows = [json.loads(line) for line in (material_dir / "eval" / "ifeval_input.jsonl").read_text("utf-8").splitlines()]
    found = items_that_may_differ(Item(str(row["key"]), (), fields=row) for row in rows)
    assert len(found) == 110
    assert {"337", "2078", "30", "1122", "1129"} <= set(found)
