"""`data.fraction` and `data.leave_out`: nested training rows, the same held-out rows."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares two sources and returns the rows of each split, by source."""
    for name, number in (("small", 40), ("large", 100)):
        rows = [{"instruction": f"Question {n} of {name}?", "output": f"answer {n}"} for n in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prepare(*words: str) -> dict[str, dict[str, set[str]]]:
        directory = tmp_path / f"prepared-{len(list(tmp_path.iterdir()))}"
        execute([
            "prepare", "model=quickstart", "template=alpaca", f"prepared_dir={directory}", "data.val_fraction=0.1",
            *(f"data.mix.{name}.path={tmp_path / name}.jsonl" for name in ("small", "large")), *words,
        ])  # fmt: skip
        found: dict[str, dict[str, set[str]]] = {"train": {}, "validation": {}}
        for line in map(json.loads, (directory / "ledger.jsonl").read_text().splitlines()):
            if line["fate"] == "used":
                found[line["split"]].setdefault(line["source"], set()).add(line["where"])
        return found

    return prepare


def test_a_smaller_fraction_is_a_part_of_a_larger_one_and_held_out_rows_stay(prepared):
    whole, half, quarter = (prepared(f"data.fraction={fraction}") for fraction in (1, 0.5, 0.25))
    assert {name: len(rows) for name, rows in whole["train"].items()} == {"small": 36, "large": 90}
    assert {name: len(rows) for name, rows in half["train"].items()} == {"small": 18, "large": 45}
    assert {name: len(rows) for name, rows in quarter["train"].items()} == {"small": 9, "large": 22}
    for name in ("small", "large"):
        assert quarter["train"][name] < half["train"][name] < whole["train"][name]
    assert quarter["validation"] == half["validation"] == whole["validation"]
    assert len(whole["validation"]["large"]) == 10


def test_a_source_left_out_keeps_its_held_out_rows(prepared):
    whole, without = prepared(), prepared("data.leave_out=[small]")
    assert without["train"] == {"large": whole["train"]["large"]}
    assert without["validation"] == whole["validation"]
    assert prepared("data.leave_out=[small]", "data.strategy=equal")["train"].keys() == {"large"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.leave_out=[smal]"], "did you mean small"),
        (["data.leave_out=[small,large]"], "names every source"),
        (["data.leave_out=[small]", "data.stages=[{mix:{small:1}},{mix:{large:1}}]"], "a stage of data.stages"),
        (["data.fraction=0"], "data.fraction"),
    ],
)
def test_fractions_and_sources_that_leave_nothing_are_refused(prepared, words, message):
    with pytest.raises(SftError, match=message):
        prepared(*words)
