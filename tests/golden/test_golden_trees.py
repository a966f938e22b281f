"""The golden tree paths: what make_trees.py wrote is what it writes now. After a wanted change, read the diff."""

import make_trees
import pytest


@pytest.mark.parametrize("setting", make_trees.SETTINGS)
def test_own_trees(setting):
    golden = (make_trees.HERE / f"{setting}.txt").read_text(encoding="utf-8")
    assert make_trees.content(make_trees.OWN, setting) == golden


@pytest.mark.material
@pytest.mark.parametrize("setting", make_trees.REAL_SETTINGS)
def test_real_trees(setting, material_dir):
    golden = (make_trees.HERE / f"material {setting}.txt").read_text(encoding="utf-8")
    assert make_trees.content(make_trees.MATERIAL, setting, make_trees.REAL_TREES) == golden


def test_every_answer_of_the_own_trees_is_trained_once():
    """Check the file alone: in ``all``, the text of every answer occurs once without the dash."""
    golden = (make_trees.HERE / "all.txt").read_text(encoding="utf-8")
    answers = [
        piece for row in golden.splitlines() for piece in row.split(" ", 2)[2].split(" | ") if "a: " in piece[:4]
    ]
    trained = [answer for answer in answers if not answer.startswith("-")]
    assert len(trained) == len(set(trained)) > 5
    assert {answer.removeprefix("-") for answer in answers} == set(trained)
