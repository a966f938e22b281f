"""``sft compare`` on results directories that are written here."""

import json

import numpy as np
import pytest

from sft_cli.compare.comparison import cannot_tell, smaller_is_better
from sft_cli.scoring.statistics import Difference
from tests.compare.helpers import compared, fails, shown, write_run, write_suite


@pytest.mark.usefixtures("pair")
def test_a_better_run_with_settings_data_and_answers(capsys):
    text = shown(capsys, "a", "b", "-n", "1")
    lines = [line.split() for line in text.splitlines()]
    assert ["A", "a", "(reference)"] in lines
    assert ["facts", "exact,", "100", "items"] in lines
    assert ["A", "0.400", "[0.309,", "0.498]"] in lines
    assert ["B", "0.680", "[0.583,", "0.763]", "+0.280", "[+0.182,", "+0.378]", "better"] in lines
    assert "config    A -> B: trainer.lr 0.001 -> 0.002" in text
    assert "data      A -> B: data.mix.mine.weight" in text
    assert "answers   B loses 2 items and wins 30 against A" in text
    example = "B is wrong (exact)\nprompt    Question q0\nA         a says q0\nB         b says q0\nreason    why q0\n"
    assert f"facts q0: {example}" in text
    assert text.count("prompt    ") == 2
    assert ["facts", "A", "100", "500", "5"] in lines
    assert "prompt" not in shown(capsys, "a", "b", "--examples", "0")


@pytest.mark.usefixtures("pair")
def test_json_holds_everything(capsys):
    found = compared(capsys, "a", "b")
    [row] = found["metrics"]
    first, second = row["cells"]
    assert (found["reference"], first["run"], first["difference"], second["verdict"]) == ("a", "a", None, "better")
    assert second["difference"]["value"] == pytest.approx(0.28)
    assert (second["difference"]["n"], second["p_value"]) == (100, second["difference"]["p_value"])
    assert found["config"] == {"b": {"trainer.lr": [0.001, 0.002]}}
    assert found["data"] == {"b": ["data.mix.mine.weight"]}
    assert found["suites"][0]["runs"]["b"]["tokens"] == 500
    assert len(found["answers"]["b"]) == 32


@pytest.mark.usefixtures("pair")
def test_the_order_of_the_runs_gives_the_sign(capsys):
    assert compared(capsys, "b", "a")["metrics"][0]["cells"][1]["verdict"] == "worse"


def test_noise_is_not_ranked(folder, capsys):
    for name, scores in (("a", [1] * 50 + [0] * 50), ("b", [1] * 47 + [0] * 3 + [1] * 5 + [0] * 45)):
        write_suite(write_run(folder, name), {"exact": scores})
    cell = compared(capsys, "a", "b")["metrics"][0]["cells"][1]
    assert cell["verdict"] == "cannot tell; about 1,600 items would"
    assert cell["p_value"] > 0.5
    write_suite(write_run(folder, "c"), {"exact": [1] * 50 + [0] * 50})
    assert compared(capsys, "a", "c")["metrics"][0]["cells"][1]["verdict"] == "cannot tell: no difference"


def test_clusters_are_used(folder, capsys):
    """Twenty items more right are four conversations."""
    clusters = [str(index // 5) for index in range(100)]
    for name, right in (("a", 40), ("b", 60)):
        run = write_run(folder, name)
        write_suite(run, {"exact": [1] * right + [0] * (100 - right)}, clusters=clusters)
        write_suite(run, {"exact": [1] * right + [0] * (100 - right)}, "single")
    verdicts = {row["suite"]: row["cells"][1]["verdict"] for row in compared(capsys, "a", "b")["metrics"]}
    assert verdicts["facts"].startswith("cannot tell; about ")
    assert verdicts["single"] == "better"


def test_several_comparisons_are_adjusted(folder, capsys):
    """Of ten suites without a difference and one with p = 0.03, none is better."""
    first = [0] * 100
    better = [1] * 7 + [0] * 93
    for name, scores in (("a", first), ("b", better)):
        write_suite(write_run(folder, name), {"exact": scores})
    assert compared(capsys, "a", "b")["metrics"][0]["cells"][1]["verdict"] == "better"
    for name in ("a", "b"):
        for number in range(10):
            write_suite(folder / name, {"exact": first}, f"other{number}")
    cells = [row["cells"][1] for row in compared(capsys, "a", "b")["metrics"]]
    assert [cell["verdict"][:11] for cell in cells] == ["cannot tell"] * 11
    assert cells[0]["p_value"] == pytest.approx(11 * 2 / 2**7)
    assert "hold together for all 11 differences at 5% (Holm)" in shown(capsys, "a", "b")


def test_smaller_losses_are_better(folder, capsys):
    rng = np.random.default_rng(0)
    loss = rng.random(50)
    for name, values in (("a", loss), ("b", loss - 0.1 + 0.01 * rng.random(50))):
        write_suite(write_run(folder, name), {"loss": list(values)})
    assert compared(capsys, "a", "b")["metrics"][0]["cells"][1]["verdict"] == "better"
    assert [smaller_is_better(name) for name in ("perplexity", "false_refusal", "exact", "closest")] == [
        True,
        True,
        False,
        False,
    ]


def test_three_runs_and_samples(folder, capsys):
    for place, name in enumerate("abc"):
        write_suite(write_run(folder, name), {"exact": [1] * (30 + 20 * place) + [0] * (70 - 20 * place)}, samples=2)
    [row] = compared(capsys, "a", "b", "c")["metrics"]
    assert [cell["run"] for cell in row["cells"]] == ["a", "b", "c"]
    assert [cell["estimate"]["n"] for cell in row["cells"]] == [100] * 3
    assert [cell["verdict"] for cell in row["cells"]] == ["", "better", "better"]


def test_reducers_of_several_samples_are_compared(folder, capsys):
    """Of three samples one in a, two in b are right and alike: pass@3 is equal, the majority is not."""
    reduce = {"reduce": ["mean", "majority", "pass@3"]}
    for name, right in (("a", 1), ("b", 2)):
        path = write_suite(write_run(folder, name), {"exact": [0] * 20}, samples=3, definition=reduce)
        verdicts = [json.loads(line) for line in (path / "verdicts.jsonl").read_text().splitlines()]
        for line in verdicts:
            is_right = line["sample"] < right
            line |= {"scores": {"exact": float(is_right)}, "extracted": "yes" if is_right else "no"}
        (path / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in verdicts))
    rows = {row["metric"]: row["cells"][1] for row in compared(capsys, "a", "b")["metrics"]}
    assert set(rows) == {"exact", "exact_majority", "exact_pass@3"}
    assert (rows["exact_majority"]["difference"]["value"], rows["exact_majority"]["verdict"]) == (1, "better")
    assert rows["exact"]["difference"]["value"] == pytest.approx(1 / 3)
    assert (rows["exact_pass@3"]["estimate"]["value"], rows["exact_pass@3"]["verdict"]) == (
        1, "cannot tell: no difference",
    )  # fmt: skip


def test_the_base_model_as_reference(folder, capsys):
    run = write_run(folder, "a")
    write_suite(run, {"exact": [0] * 100}, digest="00000000", label="base", weights="b")
    write_suite(run, {"exact": [1] * 50 + [0] * 50})
    found = compared(capsys, "a", "--base")
    assert (found["reference"], found["metrics"][0]["cells"][1]["verdict"]) == ("base", "better")
    assert found["config"] == {}
    other = write_run(folder, "b")
    write_suite(other, {"exact": [1] * 50 + [0] * 50})
    write_suite(other, {"exact": [0] * 100}, digest="00000000", label="base", weights="another")
    assert fails("a", "b", "--base").problem == "the runs have different base models"


def test_metrics_that_are_no_means_are_shown_without_a_test(folder, capsys):
    for name, value in (("a", 20.0), ("b", 30.0)):
        metrics = {"bleu": {"value": value, "low": None, "high": None, "n": 10, "clusters": None}}
        write_suite(write_run(folder, name), {"exact": [1] * 10}, metrics=metrics)
    rows = {row["metric"]: row["cells"][1] for row in compared(capsys, "a", "b")["metrics"]}
    assert (rows["bleu"]["estimate"]["value"], rows["bleu"]["difference"]) == (30, None)
    assert rows["bleu"]["verdict"] == "not tested: only its total is stored"


def test_results_on_parts_of_the_same_items_are_compared_once(folder, capsys):
    """A try with eval.limit before the whole evaluation adds no second comparison, which would weaken the verdicts."""
    a, b = write_run(folder, "a"), write_run(folder, "b")
    ids = [f"{index:012x}" for index in range(20)]
    for run, score in ((a, 0), (b, 1)):
        write_suite(run, {"exact": [score] * 20}, ids=ids, fingerprint="whole")
        write_suite(run, {"exact": [score] * 5}, ids=ids[:5], digest="1234567a", fingerprint="part")
        write_suite(run, {"exact": [score] * 9}, suite="other", digest="1234567b")
    found = compared(capsys, "a", "b")
    assert [(suite["suite"], suite["items"]) for suite in found["suites"]] == [("facts", 20), ("other", 9)]


def test_common_items_are_compared_and_others_counted(folder, capsys):
    ids = [f"{index:012x}" for index in range(30)]
    write_suite(write_run(folder, "a"), {"exact": [1] * 30}, ids=ids)
    write_suite(write_run(folder, "b"), {"exact": [0] * 20}, ids=ids[:20], fingerprint="part", definition={"limit": 20})
    found = compared(capsys, "a", "b")
    assert [cell["estimate"]["n"] for cell in found["metrics"][0]["cells"]] == [20, 20]
    assert found["suites"][0]["notes"] == ["facts: 20 of 30 items of a are compared, which all runs answered"]


def test_items_without_a_metric_are_left_out_of_it(folder, capsys):
    for name in "ab":
        write_suite(write_run(folder, name), {"exact": [1] * 10, "strict": [1, None] * 5})
    assert {row["metric"]: row["cells"][1]["estimate"]["n"] for row in compared(capsys, "a", "b")["metrics"]} == {
        "exact": 10,
        "strict": 5,
    }


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.0, 0.1, "cannot tell: no difference"),
        (0.1, None, "cannot tell"),
        (0.1, 0.1, "cannot tell; about 790 items would"),
        (1e-6, 0.1, "cannot tell; more than 1,000,000 items would"),
        (0.5, 0.01, "cannot tell; about 6 items would"),
    ],
)
def test_verdicts_name_rounded_numbers_of_items(value, error, verdict):
    difference = Difference(value, None, None, 1, error, 100, 100)
    assert cannot_tell(difference, 1) == verdict


def test_the_table_fits_80_columns(folder, capsys):
    a, b = write_run(folder, "a"), write_run(folder, "b")
    for run, scores in ((a, [1] * 50 + [0] * 50), (b, [0] * 5 + [1] * 53 + [0] * 42)):
        write_suite(run, {"prompt_strict": scores}, "ifeval_fixed", metrics={"macro_f1": {"value": 0.5, "n": 100}})
    text = shown(capsys, "a", "b", "-n", "0")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  B") and "cannot tell; ~" in line and line.endswith(" items") for line in lines)
    assert "ifeval_fixed prompt_strict, 100 items" in lines
    assert any(line.split() == ["B", "0.500", "not", "tested"] for line in lines)
