"""The golden masks: what make_masks.py wrote is what it writes now. After a wanted change, run it and read the diff."""

import json

import make_masks
import pytest
from make_masks import CASES, CONTENTS, HERE, REAL, TEMPLATES

FILES = make_masks.goldens()
SMALL = [file for file in FILES if file.parent == HERE]
NOT_SHOWN = ("cafe\u0301", "</s>")
"""Words of answers that are composed, or taken off as a stop token that the template writes itself."""
ASKED = [file for file in FILES if file.parent == HERE / "contents"]


def same(file):
    assert make_masks.content(*FILES[file]) == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", [*SMALL, *ASKED], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_small_tokenizer(file):
    same(file)


@pytest.mark.material
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizer(name, material_dir):
    same(HERE / "material" / f"{name}.json")


def test_the_small_tokenizer_is_the_one_made_here(tmp_path):
    make_masks.build_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (HERE / "tokenizer" / name).read_bytes()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_golden_file_agrees_with_itself(file):
    """Read without any of our code: labels repeat the ids or are -100, and the pieces say what each answer was."""
    golden = json.loads(file.read_text(encoding="utf-8"))
    assert list(golden) == list(CASES)
    examples = [(case, example) for case in golden.values() for example in case.get("examples", [])]
    assert len(examples) >= len(CASES) - sum("refused" in case for case in golden.values())
    for case, example in examples:
        ids, labels = example["input_ids"], example["labels"]
        assert len(ids) == len(labels)
        assert all(label in (-100, id) for id, label in zip(ids, labels, strict=True))
        assert labels[0] == -100
        assert labels[-1] == ids[-1]
        roles = ("user", "assistant") if file in ASKED else ("assistant",)
        answers = [turn["content"] for turn in case["conversation"] if turn["role"] in roles]
        trained = [text for kind, text in example["pieces"] if kind == "trained"]
        assert trained
        for text in trained:
            assert any(all(word in text for word in answer.split() if word not in NOT_SHOWN) for answer in answers)


def test_the_goldens_are_as_many_as_promised():
    assert len(SMALL) == len(TEMPLATES) == 9
    assert len(FILES) == 14 + len(ASKED)
    assert sorted(file.stem for file in (HERE / "contents").glob("*.json")) == sorted(CONTENTS)
    assert sorted(file.stem for file in HERE.glob("*.json")) == sorted(TEMPLATES)
    qwen = json.loads((HERE / "material" / "qwen3.json").read_text(encoding="utf-8"))
    assert [len(case["examples"]) for case in qwen.values()] == [2, 1, 1, 1, 2]  # rewritten history: one per turn
