"""Self-instruct: parsing, filters, growth, and repetition from the journal."""

import json
import random
import re

import pytest

from sft_cli.config.schema.synth import Generator, SelfInstructConfig, SynthConfig
from sft_cli.errors import SftError
from sft_cli.synth.pool import InstructionPool
from sft_cli.synth.seed_tasks import load_seed_tasks
from sft_cli.synth.self_instruct import listed_instructions, read_instance, self_instruct
from tests.synth.teacher_stub import Stub

VERBS = ["Describe", "Compare", "Rank", "Explain", "Sketch", "Summarise", "Invent", "Count"]
NOUNS = ["rivers", "violins", "storms", "bakers", "atoms", "novels", "gates", "harbours", "deserts", "engines"]


def reply(text: str, sample: int) -> str:
    """Answer the four prompts: new instructions (some of them bad), Yes or No, input and output."""
    choose = random.Random(text)
    if "Continue the list" in text:
        new = [
            f"{choose.choice(VERBS)} {choose.choice(NOUNS)} for {choose.choice(NOUNS)} near {choose.choice(NOUNS)}"
            for _ in range(5)
        ]
        return "\n".join(f"{9 + number}. {one}" for number, one in enumerate([*new, "Draw a picture of a cat", "Go"]))
    if "fixed set of labels" in text:
        return "Yes" if "Rank" in text.rpartition("Instruction:")[2] else "No"
    if "at random" in text:
        return "Output: first\nInput: these things"
    return "Input: none\nOutput: an answer" if choose.random() < 0.7 else "I do not know"


def config(rows=30):
    return SynthConfig(
        generator=Generator.self_instruct, self_instruct=SelfInstructConfig(rows=rows, requests_per_round=3)
    )


def test_it_grows_until_there_are_enough_rows(tmp_path):
    stub = Stub(reply)
    with stub.session(config(), tmp_path) as session:
        made = self_instruct(config(), session)
    assert len(made.rows) == 30
    assert made.counts["instruction: not for text alone"] > 0
    assert made.counts["instruction: too short or too long"] > 0
    assert made.counts["no output in the reply"] > 0
    ranked = [row for row in made.rows if row["messages"][0]["content"].startswith("Rank")]
    assert all("output_first" in row["synth"]["prompts"] for row in ranked)
    assert all(row["messages"][0]["content"].endswith("\n\nthese things") for row in ranked)
    assert ranked
    first = [row["messages"][0]["content"].partition("\n\n")[0] for row in made.rows]
    pool = InstructionPool(0.7)
    for text in first:
        assert pool.similar(text) is None
        pool.add(text)


def test_a_cut_run_continues_from_its_journal_with_the_same_rows(tmp_path):
    whole = Stub(reply)
    with whole.session(config(), tmp_path / "whole") as session:
        expected = self_instruct(config(), session)

    class Killed(Exception):
        pass

    asked, made = [], None
    for stop in (1, 7, 25, 60, 10_000):
        count = iter(range(stop))

        def dying(text, sample, count=count):
            if next(count, None) is None:
                raise Killed
            return reply(text, sample)

        stub = Stub(dying)
        with stub.session(config(), tmp_path / "cut") as session:
            try:
                made = self_instruct(config(), session)
            except Killed:
                stub.asked.pop()
        asked += stub.asked
    assert made is not None
    texts = [[row["messages"] for row in result.rows] for result in (made, expected)]
    assert texts[0] == texts[1]
    assert sorted(asked) == sorted(whole.asked)


def test_a_preview_asks_what_the_whole_asks(tmp_path):
    stub = Stub(reply)
    with stub.session(config(), tmp_path) as session:
        made = self_instruct(config(), session, 2)
        paid = len(stub.asked)
        assert len(made.rows) == 2
        assert made.planned is not None
        assert made.planned > paid
    with stub.session(config(), tmp_path) as session:
        self_instruct(config(), session)
        assert session.from_journal == paid


def test_the_items_of_a_list_are_instructions():
    text = "Here are tasks:\n9. Name a river.\n10) Sing.\n\n  11.  Count to ten"
    assert listed_instructions(text, cut=False) == ["Name a river.", "Sing.", "Count to ten"]
    assert listed_instructions(text, cut=True) == ["Name a river.", "Sing."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Input: a\nb\nOutput: c", ("a\nb", "c")),
        ("output: label\nINPUT: text", ("text", "label")),
        ("Input: none\nOutput: c\nd", ("", "c\nd")),
        ('Input: "None."\nOutput: c', ("", "c")),
        ("Output: c", ("", "c")),
        ("Input: a", None),
        ("an answer", None),
        ("Input: a\nOutput:", None),
    ],
)
def test_input_and_output_are_read_in_either_order(text, expected):
    assert read_instance(text) == expected


def test_the_seed_tasks_of_the_package_are_many_varied_and_right():
    tasks = load_seed_tasks(None)
    assert len(tasks) >= 60
    assert len({task.instruction for task in tasks}) == len(tasks)
    assert 15 <= sum(task.is_classification for task in tasks) <= len(tasks) // 2
    assert len({re.split(r"\W+", task.instruction)[0] for task in tasks}) > 40
    pool = InstructionPool(0.7)
    for task in tasks:
        assert pool.similar(task.instruction) is None
        pool.add(task.instruction)


def test_a_wrong_line_of_seed_tasks_is_named(tmp_path):
    file = tmp_path / "seeds.jsonl"
    good = {"instruction": "Say a", "input": "", "output": "a", "is_classification": False}
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "output": ""}) + "\n")
    with pytest.raises(SftError) as caught:
        load_seed_tasks(str(file))
    assert caught.value.where == f"{file}:2"
