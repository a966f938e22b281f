"""Every input row has one entry; too many dropped rows are refused with their reasons."""

import json

import pytest

from sft_cli.data.ledger import Entry, Ledger
from sft_cli.errors import SftError


def used(where, source="a", **values):
    return Entry(where=where, source=source, split="train", fate="used", **{"copies": 1, "examples": 1, **values})


def dropped(where, reason, source="a"):
    return Entry(where=where, source=source, split="train", fate="dropped", reason=reason, detail=f"about {where}")


def not_sampled(where, source="a"):
    return Entry(where=where, source=source, split="train", fate="not_sampled")


def refusal(entries, max_dropped):
    with pytest.raises(SftError) as caught:
        Ledger(entries).check_budget(max_dropped)
    return str(caught.value)


def test_one_line_per_row_in_order(tmp_path):
    ledger = Ledger()
    ledger.add(used("é.jsonl:1", copies=2, examples=3, tokens=30, trained_tokens=9, truncated_messages=2))
    ledger.add(dropped("é.jsonl:2", "empty answer"))
    ledger.add(not_sampled("é.jsonl:3"))
    ledger.write(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_text("utf-8").splitlines()
    assert lines[0] == (
        '{"where": "é.jsonl:1", "source": "a", "split": "train", "fate": "used", "reason": null, "detail": null, '
        '"examples": 3, "copies": 2, "tokens": 30, "trained_tokens": 9, "truncated_messages": 2}'
    )
    assert [(json.loads(line)["fate"], json.loads(line)["reason"]) for line in lines] == [
        ("used", None),
        ("dropped", "empty answer"),
        ("not_sampled", None),
    ]


def test_counts():
    ledger = Ledger(
        [
            used("1", tokens=10, trained_tokens=4, copies=2, examples=3),
            used("2", tokens=5, trained_tokens=1, truncated_messages=1),
            dropped("3", "too long"),
            not_sampled("4"),
            used("1", source="b", tokens=7, trained_tokens=7),
        ]
    )
    assert ledger.counts() == {
        "a": {
            "rows": 4, "used": 2, "dropped": 1, "not_sampled": 1, "truncated": 1,
            "examples": 7, "tokens": 25, "trained_tokens": 9,
        },
        "b": {
            "rows": 1, "used": 1, "dropped": 0, "not_sampled": 0, "truncated": 0,
            "examples": 1, "tokens": 7, "trained_tokens": 7,
        },
    }  # fmt: skip


def test_reasons_by_frequency_then_name():
    ledger = Ledger([dropped("1", "b"), dropped("2", "c"), dropped("3", "a"), dropped("4", "c"), used("5")])
    assert list(ledger.reasons().items()) == [("c", 2), ("a", 1), ("b", 1)]


def test_the_refusal_names_share_reasons_and_setting():
    entries = [used(f"rows.jsonl:{line}") for line in range(1, 96)]
    entries += [dropped("rows.jsonl:96", "too long"), dropped("rows.jsonl:97", "empty answer")]
    entries += [dropped("rows.jsonl:98", "too long"), dropped("rows.jsonl:99", "x"), dropped("rows.jsonl:100", "y")]
    assert refusal(entries, 0.01) == (
        "data.max_dropped: 5 of 100 rows (5.00%) were dropped, more than 1.00%: "
        "2 too long (rows.jsonl:96), 1 empty answer (rows.jsonl:97), 1 x (rows.jsonl:99), and 1 more reasons\n"
        "  fix: repair the rows, or set data.max_dropped=0.05"
    )


@pytest.mark.parametrize(
    ("num_used", "num_dropped", "proposed"), [(2, 1, "0.34"), (99, 2, "0.02"), (9999, 9, "0.0009"), (1, 1, "0.5")]
)
def test_the_proposed_budget_is_enough(num_used, num_dropped, proposed):
    entries = [used("u")] * num_used + [dropped("d", "x")] * num_dropped
    assert refusal(entries, 0.0).endswith(f"data.max_dropped={proposed}")
    Ledger(entries).check_budget(float(proposed))


def test_the_budget_is_a_limit_not_a_bound_to_stay_below():
    Ledger([used("1")] * 99 + [dropped("2", "x")]).check_budget(0.01)
    Ledger([used("1")]).check_budget(0.0)
    Ledger([]).check_budget(0.0)


def test_rows_not_sampled_do_not_dilute():
    entries = [used("1")] * 9 + [dropped("2", "x")] + [not_sampled("3")] * 1000
    assert refusal(entries, 0.05).startswith("data.max_dropped: 1 of 10 rows (10.00%) were dropped, more than 5.00%")


def test_a_source_of_which_nothing_is_left():
    entries = [used(str(line)) for line in range(999)] + [dropped("b.jsonl:1", "empty answer", source="b")]
    assert refusal(entries, 0.5) == (
        "data.mix.b: no row is left, 1 were dropped: 1 empty answer (b.jsonl:1)\n"
        "  fix: repair the rows, or take the source out of the mix"
    )


def test_a_dropped_row_has_a_reason():
    with pytest.raises(AssertionError, match="rows:1: dropped, None"):
        Entry(where="rows:1", source="a", split="train", fate="dropped")
    with pytest.raises(AssertionError, match="rows:1: used, x"):
        Entry(where="rows:1", source="a", split="train", fate="used", reason="x")
