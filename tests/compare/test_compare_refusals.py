"""Results that ``sft compare`` refuses: other definitions, other items, and mistakes of the command line."""

import pytest

from tests.compare.helpers import compared, fails, write_run, write_suite

RESCORE = "score both in the same manner: sft eval b --rescore eval=facts"
EVALUATE = "evaluate both with the same settings: sft eval b eval=facts"


@pytest.mark.parametrize(
    ("changed", "problem", "fix"),
    [
        ({"definition": {"scorer": "numeric"}}, "scorer is 'exact' and 'numeric'", RESCORE),
        ({"definition": {"options": {"tolerance": 1}}}, "options.tolerance is None and 1", RESCORE),
        ({"settings": {"temperature": 1}}, "temperature is 0 and 1", EVALUATE),
        ({"fingerprint": "g"}, "data.fingerprint is 'f' and 'g'", EVALUATE),
    ],
)
def test_other_suites_are_refused_with_the_key(folder, changed, problem, fix):
    write_suite(write_run(folder, "a"), {"exact": [1] * 5})
    write_suite(write_run(folder, "b"), {"exact": [1] * 5}, **changed)
    error = fails("a", "b")
    assert f"the results of facts are not of one suite: {problem} (" in error.problem
    assert error.fix == fix


def test_settings_of_models_may_differ_and_places_do_not_matter(folder, capsys):
    write_suite(write_run(folder, "a"), {"exact": [1] * 5})
    place = {"path": "/x/items.jsonl", "tags": {"a": "b"}}
    write_suite(
        write_run(folder, "b"), {"exact": [1] * 5}, settings={"dtype": "bfloat16"}, definition=place, version="2"
    )
    assert compared(capsys, "a", "b")["suites"][0]["notes"] == [
        "facts: dtype of b and a differ",
        "facts: sft_cli 1 and 2 scored the answers; --rescore makes them alike",
    ]


def test_results_of_the_same_definition_are_found_among_several(folder, capsys):
    a, b = write_run(folder, "a"), write_run(folder, "b")
    write_suite(a, {"exact": [1] * 40})
    write_suite(b, {"exact": [1] * 40}, digest="00000000", settings={"temperature": 1})
    write_suite(b, {"exact": [0] * 40}, digest="11111111")
    [row] = compared(capsys, "a", "b")["metrics"]
    assert row["cells"][1]["verdict"] == "worse"


def test_mistakes(folder):
    a, b = write_run(folder, "a"), write_run(folder, "b")
    assert fails("a").fix == "sft compare a --base, or sft compare a RUN"
    assert fails("a", "./a").problem == "a run is named twice"
    assert fails("a", "b").fix == "evaluate it first: sft eval a eval=quick"
    assert "there is no such directory" in fails("a", "c").problem
    write_suite(a, {"exact": [1]})
    write_suite(b, {"exact": [1]}, "others")
    error = fails("a", "b")
    assert error.problem == "the runs have no suite in common (a: facts; b: others)"
    assert error.fix == "evaluate them on one suite: sft eval b eval=facts"
    assert fails("a", "b", "--base").fix == "evaluate it: sft eval a --compare base eval=quick"
    (b / "eval" / "others-01234567" / "verdicts.jsonl").write_text("no\n")
    assert fails("a", "b").where.endswith("verdicts.jsonl:1")
    assert "no run is named" in fails().problem


def test_no_common_item(folder):
    write_suite(write_run(folder, "a"), {"exact": [1]}, ids=["x"])
    write_suite(write_run(folder, "b"), {"exact": [1]}, ids=["y"])
    assert fails("a", "b").problem == "the results of facts have no item in common"


def test_the_fix_of_a_wrong_name_keeps_the_other_runs(folder, monkeypatch):
    """With SFT_HOME, results of a model without a run are below it."""
    write_run(folder, "a")
    assert fails("a", "c").fix.startswith("sft compare a ")
    (folder / "home/evals/merged").mkdir(parents=True)
    monkeypatch.setenv("SFT_HOME", str(folder / "home"))
    assert fails("a", "evals/merged").fix == f"sft compare a {folder / 'home/evals/merged'}"
