"""The page of evaluations: its items, their states, and hostile texts."""

import re

from sft_cli.eval_report import page
from sft_cli.eval_report.page import write_eval_report
from sft_cli.run_dir import RunDir
from tests.eval_report.evaluated import HOSTILE, evaluated_run, write_suite


def cards(text: str) -> dict[str, str]:
    """Return the markup of each item by its id."""
    found = re.findall(r"<article.*?</article>", text, re.DOTALL)
    return {re.search(r"<code>(.*?)</code>", card)[1]: card for card in found}


def states(card: str) -> str:
    return re.search(r'data-states="(.*?)"', card)[1]


def test_items_of_both_models_with_their_states_and_blamed_rows(tmp_path):
    run = evaluated_run(tmp_path)
    file = write_eval_report(run)
    assert file == run.eval / "report.html"
    found = cards(file.read_text())
    assert {id: states(card) for id, card in found.items()} == {
        "rows.jsonl:1": "regressed|failed", "rows.jsonl:0": "right",
        "item-1": "regressed|failed", "item-2": "failed", "item-3": "gained|right", "item-0": "right",
    }  # fmt: skip
    assert list(found)[2] == "item-1"  # the worst first
    assert "1 near training row, 1 contradicting" in found["item-1"]
    assert "train.jsonl:7</code> and 1 equal" in found["item-1"]
    assert "used, 2 copies in an epoch" in found["item-1"]
    assert "near training row" not in found["item-2"]
    assert "expected" in found["item-2"]
    assert "(blank)" in found["rows.jsonl:1"]
    assert "END" in found["rows.jsonl:1"]
    assert len(found["rows.jsonl:1"]) < 6000
    assert re.search(r'data-tags="\d+\|\d+"', found["item-1"])


def test_hostile_texts_stay_text(tmp_path):
    text = write_eval_report(evaluated_run(tmp_path)).read_text()
    assert "<img" not in text
    assert text.count("<script>") == text.count("</script>") == text.count("<style>") == 1
    assert "{{ 7 * 7 }}" in cards(text)["item-1"]
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") > 20


def test_items_whose_file_has_moved_are_shown_without_expected_answers(tmp_path):
    run = RunDir(tmp_path / "run")
    write_suite(run.eval / "capitals-1", "tuned")
    found = cards(write_eval_report(run).read_text())
    assert len(found) == 4
    assert all('<p class="part">expected</p>' not in card for card in found.values())
    assert {states(card) for card in found.values()} == {"failed", "right"}


def test_more_items_than_the_page_holds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_ITEMS", 2)
    text = write_eval_report(evaluated_run(tmp_path)).read_text()
    assert [states(card) for card in cards(text).values()][2:] == ["regressed|failed", "failed"]
    assert "2 more items" in text


def test_a_run_without_results_has_no_page(tmp_path):
    run = RunDir(tmp_path)
    assert write_eval_report(run) is None
    assert not (tmp_path / "eval").exists()


def test_suites_of_one_name_have_those_of_their_directories(tmp_path):
    run = RunDir(tmp_path / "run")
    write_suite(run.eval / "capitals-1", "tuned")
    write_suite(run.eval / "capitals-3", "tuned")
    text = write_eval_report(run).read_text()
    assert "<h3>capitals-1</h3>" in text
    assert "<h3>capitals-3</h3>" in text
    assert HOSTILE not in text
