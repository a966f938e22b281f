"""Items of suites from files: prompts, choices, ids, few-shot examples, and every mistake in a file."""

import json
from pathlib import Path

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.schema.suites import ShotsConfig, SuiteConfig, SuiteFormat, SuiteKind
from sft_cli.errors import SftError
from sft_cli.suites.items import choice_index, load_suite
from sft_cli.suites.rows import shipped_file
from sft_cli.suites.scorers import suite_scorer

ROOT = Path(__file__).resolve().parents[2]
LISTS = {"quick", "standard", "full", "retention"}
TEXTS = {"perplexity"}
OWN_ROWS = {"heldout", "memorisation"}
OWN_FILES = {"summarise", "translate", "classify", "arena"}
"""Examples over a user's files."""
NAMED = sorted(file.stem for file in (ROOT / "configs/eval").glob("*.yaml"))


def write(file: Path, *rows: dict) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def capitals(tmp_path) -> str:
    names = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana"}
    rows = [{"country": name, "city": city, "part": name[0]} for name, city in names.items()]
    return write(tmp_path / "capitals.jsonl", *rows)


def suite(path: str, **fields) -> SuiteConfig:
    return SuiteConfig(**{"path": path, "prompt": "Capital of {{ country }}?", "target": "{{ city }}", **fields})


def test_an_item_has_prompt_target_tags_and_an_id_that_does_not_depend_on_the_order(capitals, tmp_path):
    loaded = load_suite("capitals", suite(capitals, system="Be brief.", tags={"part": "{{ part }}"}))
    item = loaded.items[1].item
    assert item.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of Japan?"},
    )
    assert (item.target, item.tags, loaded.items[1].where) == (("Tokyo",), {"part": "J"}, "capitals.jsonl:2")
    lines = Path(capitals).read_text().splitlines(keepends=True)
    (tmp_path / "reversed.jsonl").write_text("".join(reversed(lines)))
    other = load_suite("capitals", suite(str(tmp_path / "reversed.jsonl")))
    assert [entry.item.id for entry in other.items] == [entry.item.id for entry in reversed(loaded.items)]
    assert len({entry.item.id for entry in loaded.items}) == 4
    assert other.fingerprint != loaded.fingerprint


def test_equal_rows_have_different_ids(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "Hi"}, {"prompt": "Hi"})
    first, second = (entry.item.id for entry in load_suite("x", SuiteConfig(path=path)).items)
    assert second == f"{first}-2"


def test_the_smaller_limit_counts(capitals):
    assert len(load_suite("x", suite(capitals, limit=3), limit=2).items) == 2
    assert len(load_suite("x", suite(capitals, limit=1), limit=2).items) == 1
    assert load_suite("x", suite(capitals), limit=2).total == 4


def test_examples_are_turns_in_a_chat_and_leave_the_item_out(capitals):
    shots = ShotsConfig(count=2, answer="{{ city }}.", seed=1)
    loaded = load_suite("x", suite(capitals, shots=shots))
    for entry in loaded.items:
        *examples, question = entry.item.messages
        assert [message["role"] for message in examples] == ["user", "assistant"] * 2
        assert all(question["content"] != example["content"] for example in examples)
        assert examples[1]["content"].endswith(".")
    assert loaded.fingerprint != load_suite("x", suite(capitals)).fingerprint
    text = load_suite("x", suite(capitals, shots=shots, format=SuiteFormat.text)).items[0].item.messages
    assert len(text) == 1
    assert text[0]["content"].count("\n\n") == 2
    assert text[0]["content"].endswith("Capital of France?")


def test_too_few_rows_for_the_examples(capitals):
    with pytest.raises(SftError, match=r"4 examples are wanted, but there are 4 rows") as caught:
        load_suite("x", suite(capitals, shots=ShotsConfig(count=4)))
    assert caught.value.fix == "set eval.suites.x.shots.count=3"


@pytest.mark.parametrize(
    ("gold", "index"),
    [
        (2, 2),
        ("C", 2),
        ("pear", 1),
        ("0", 0),
        (" B ", 1),
        (3, None),
        ("D", None),
        (-1, None),
        (True, None),
        (1.0, None),
    ],
)
def test_the_correct_choice_is_an_index_a_letter_or_a_text(gold, index):
    assert choice_index(gold, ["apple", "pear", "plum"]) == index


def test_choices_of_an_item(tmp_path):
    rows = [{"q": "1 + 1?", "options": {"text": ["2", "3"], "label": ["A", "B"]}, "key": "B"}]
    config = SuiteConfig(
        kind=SuiteKind.choices,
        path=write(tmp_path / "rows.jsonl", *rows),
        prompt="{{ q }}",
        choices="{{ options.text }}",
        gold="{{ options.label.index(key) }}",
    )
    entry = load_suite("x", config).items[0]
    assert (entry.choices, entry.gold, entry.item.target) == (("2", "3"), 1, ("3",))


CHOICES = {"kind": SuiteKind.choices, "prompt": "{{ q }}", "choices": "{{ options }}", "gold": "{{ key }}"}
MISTAKES = [
    pytest.param({}, {"text": "Hi"}, "eval.suites.x.prompt: 'prompt' is undefined", id="missing-column"),
    pytest.param({}, {"prompt": "  "}, "eval.suites.x.prompt: it is empty", id="empty-prompt"),
    pytest.param(CHOICES, {"q": "?", "options": "ab", "key": 0}, "is not a list of two or more texts", id="no-list"),
    pytest.param(CHOICES, {"q": "?", "options": ["a", ""], "key": 0}, "one of the choices is empty", id="empty-choice"),
    pytest.param(CHOICES, {"q": "?", "options": ["a", "b"], "key": 5}, "5 is not an index below 2", id="gold"),
    pytest.param({"messages": "{{ m }}"}, {"m": "Hi"}, "is not a list of messages", id="messages"),
    pytest.param(
        {"messages": "{{ m }}"},
        {"m": [{"role": "assistant", "content": "Hi"}]},
        "the last message is an answer",
        id="answered",
    ),
    pytest.param({"tools": "{{ f }}"}, {"prompt": "Hi", "f": "look"}, "is not a list of schemas", id="tools"),
]


@pytest.mark.parametrize(("fields", "row", "problem"), MISTAKES)
def test_a_mistake_in_a_row_is_one_sentence_with_its_place(tmp_path, fields, row, problem):
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(SftError) as caught:
        load_suite("x", SuiteConfig(path=path, **fields))
    assert problem in caught.value.problem
    assert caught.value.where == "rows.jsonl:1"
    assert "eval.suites.x" in caught.value.fix


def test_an_id_belongs_to_one_item(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "n": 7}, {"prompt": "b", "n": 7})
    with pytest.raises(SftError, match="another item has the id '7'"):
        load_suite("x", SuiteConfig(path=path, id="{{ n }}"))


def test_missing_files(tmp_path):
    with pytest.raises(SftError, match="no file of items is named") as caught:
        load_suite("x", SuiteConfig(file="x.jsonl"))
    assert "eval.suites.x.path=FILE" in caught.value.fix
    with pytest.raises(SftError, match=r"there is no file .*x\.jsonl"):
        load_suite("x", SuiteConfig(file="x.jsonl"), str(tmp_path))
    with pytest.raises(SftError) as caught:
        load_suite("x", SuiteConfig(path=str(tmp_path / "none.jsonl")))
    assert "data.mix" not in str(caught.value)
    assert "eval.suites.x" in str(caught.value)


def test_answers_of_a_second_file_are_joined_by_id(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"id": "a", "prompt": "1"}, {"id": "b", "prompt": "2"})
    write(tmp_path / "answers.jsonl", {"id": "b", "right": "two"}, {"id": "a", "right": "one"})
    config = SuiteConfig(path=path, answers="answers.jsonl", target="{{ right }}", id="{{ id }}")
    assert [entry.item.target for entry in load_suite("x", config).items] == [("one",), ("two",)]
    write(tmp_path / "answers.jsonl", {"id": "a", "right": "one"})
    with pytest.raises(SftError, match="has no row with the id 'b'"):
        load_suite("x", config)


@pytest.mark.parametrize("name", NAMED)
def test_a_shipped_suite_names_its_source_and_licence(name):
    config = compose([f"eval={name}"]).eval
    assert config.suites
    assert len(config.suites) == 1 or name in LISTS
    for own in config.suites.values():
        if own.kind.value not in OWN_ROWS and name not in OWN_FILES:
            assert own.source.startswith("https://") or shipped_file(own)
            assert own.licence
            assert own.items or own.kind is SuiteKind.perplexity
            assert own.file


def test_the_lists_name_every_published_suite():
    full = compose(["eval=full"]).eval.suites
    assert set(full) == set(NAMED) - LISTS - OWN_FILES - {"memorisation"}
    assert set(compose(["eval=quick"]).eval.suites) < set(compose(["eval=standard"]).eval.suites) < set(full)


def test_the_quick_suites_need_neither_a_file_nor_a_network():
    for name, config in compose(["eval=quick"]).eval.suites.items():
        if config.kind is not SuiteKind.heldout:
            loaded = load_suite(name, config)
            assert loaded.total == config.items
            suite_scorer(name, config).check_items(entry.item for entry in loaded.items)


SMALL_FILES = {"hellaswag": "hellaswag_small.jsonl", "mmlu": "zero_shot_mmlu_val.json"}
"""Excerpts that do not have the published number of items."""


@pytest.mark.material
@pytest.mark.parametrize("name", sorted(set(NAMED) - LISTS - OWN_FILES - TEXTS - OWN_ROWS))
def test_the_items_of_a_shipped_suite_render(name, material_dir):
    folder = material_dir / "eval"
    config = compose([f"eval={name}"]).eval.suites[name]
    if name in SMALL_FILES:
        config.path = str(folder / SMALL_FILES[name])
    loaded = load_suite(name, config, str(folder), limit=40)
    assert loaded.total == config.items or name in SMALL_FILES
    assert loaded.rows == min(40, loaded.total)
    assert len(loaded.items) >= loaded.rows
    assert all(entry.item.messages[-1]["content"].strip() for entry in loaded.items)
    assert all(entry.tools for entry in loaded.items) == name.startswith("bfcl")
    if config.kind is SuiteKind.choices:
        assert len({entry.gold for entry in loaded.items}) > (name != "hellaswag")
