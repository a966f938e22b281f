"""Whole groups are held out by a tag: none of their rows is trained on, and the account names them."""

from dataclasses import replace

import pytest

from sft_cli.errors import SftError
from sft_cli.prepare.prepare import prepare_data
from tests.prepare.helpers import read_ledger, write_jsonl

TASKS = ("sort", "rhyme", "translate", "count")
ROWS = [{"task": TASKS[i % 4], "instruction": f"{TASKS[i % 4]} {i}", "output": f"answer {i}"} for i in range(24)]


@pytest.fixture
def tagged(make_config):
    """Return a function from the held-out groups to a config of rows with a task each."""

    def config(holdout, rows=ROWS, **data):
        made = make_config(rows, tags={"task": "task"})
        return replace(made, data=replace(made.data, holdout=holdout, **data))

    return config


def test_every_row_of_the_groups_is_held_out_and_no_other(tagged, capsys):
    made = prepare_data(tagged({"task": ["rhyme", "count"]}))
    sides = {(entry["tags"]["task"], entry["split"]) for entry in read_ledger(made)}
    assert sides == {("sort", "train"), ("translate", "train"), ("rhyme", "validation"), ("count", "validation")}
    assert (len(made.train), len(made.validation)) == (12, 12)
    assert made.manifest["held_out_groups"] == {"task": {"rhyme": 6, "count": 6}}
    assert made.manifest["inputs"]["mix"]["rules"]["holdout"] == {"task": ["rhyme", "count"]}
    out = capsys.readouterr().out
    assert "held out  12 examples (task rhyme: 6 examples; task count: 6 examples)" in out


def test_rows_with_the_prompt_of_a_held_out_row_are_held_out_as_well(tagged):
    rows = [*ROWS, {"task": "sort", "instruction": ROWS[1]["instruction"], "output": "another answer"}]
    made = prepare_data(tagged({"task": ["rhyme"]}, rows))
    held_out = [entry["where"] for entry in read_ledger(made) if entry["split"] == "validation"]
    assert len(held_out) == 7
    assert held_out[-1].endswith(":25")


def test_a_share_of_the_other_rows_is_held_out_in_addition(tagged):
    made = prepare_data(tagged({"task": ["rhyme"]}, val_fraction=0.5))
    assert (len(made.train), len(made.validation)) == (9, 15)


@pytest.mark.parametrize(
    ("holdout", "rows", "problem"),
    [
        (
            {"task": ["ryhme", "sort"]},
            ROWS,
            "no row has the task 'ryhme'\n  fix: did you mean 'data.holdout.task=[rhyme, sort]'?",
        ),
        ({"task": ["poem"]}, ROWS, "values of this tag: count, rhyme, sort, translate"),
        ({"task": list(TASKS)}, ROWS, "all 24 rows are held out"),
    ],
)
def test_a_group_that_does_not_exist_is_refused(tagged, holdout, rows, problem):
    with pytest.raises(SftError) as error:
        prepare_data(tagged(holdout, rows))
    assert problem in str(error.value)


def test_a_tag_that_no_source_has_is_refused(tmp_path):
    from sft_cli.config.compose import compose

    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    words = [f"data.mix.local.path={tmp_path}/rows.jsonl", "data.mix.local.tags.task=task"]
    with pytest.raises(SftError, match=r"no source has the tag tsak\n  fix: did you mean data\.holdout\.task"):
        compose([*words, "data.holdout.tsak=[rhyme]"])
    with pytest.raises(SftError, match="names no value"):
        compose([*words, "data.holdout.task=[]"])
    assert compose([*words, "data.holdout={task: [rhyme]}"]).data.holdout == {"task": ["rhyme"]}
