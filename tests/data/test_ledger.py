"""Every input row has one entry; too many dropped rows are refused with their reasons."""

import io
import json

import pytest

from sft_cli.config.schema.data import BudgetConfig, DataConfig, SourceConfig
from sft_cli.data.ledger import Ledger, LedgerEntry
from sft_cli.errors import SftError


def used(where, source="a", **values):
    return LedgerEntry(where=where, source=source, split="train", fate="used", **{"copies": 1, "examples": 1, **values})


def dropped(where, reason, source="a", filter=None):
    return LedgerEntry(
        where=where, source=source, split="train", fate="dropped", reason=reason, detail=f"about {where}", filter=filter
    )


def not_sampled(where, source="a"):
    return LedgerEntry(where=where, source=source, split="train", fate="not_sampled")


def ledger_of(entries):
    ledger = Ledger()
    for entry in entries:
        ledger.add(entry)
    return ledger


def check(entries, max_dropped=None, sources=None, **limits):
    budget = BudgetConfig(dropped=max_dropped, **limits)
    mix = {name: SourceConfig(budget=BudgetConfig(**own)) for name, own in (sources or {}).items()}
    ledger_of(entries).check_budgets(DataConfig(budget=budget, mix=mix))


def refusal(entries, max_dropped=None, **limits):
    with pytest.raises(SftError) as caught:
        check(entries, max_dropped, **limits)
    return str(caught.value)


def test_one_line_per_row_in_order():
    file = io.StringIO()
    ledger = Ledger(file)
    ledger.add(used("é.jsonl:1", copies=2, examples=3, tokens=30, trained_tokens=9, truncated_messages=2))
    ledger.add(dropped("é.jsonl:2", "empty answer"))
    ledger.add(not_sampled("é.jsonl:3"))
    lines = file.getvalue().splitlines()
    assert lines[0] == (
        '{"where": "é.jsonl:1", "source": "a", "split": "train", "fate": "used", "reason": null, "detail": null, '
        '"filter": null, "examples": 3, "copies": 2, "tokens": 30, "trained_tokens": 9, "truncated_messages": 2, '
        '"truncated_tokens": 0, "scores": {}, "tags": {}}'
    )
    assert [(json.loads(line)["fate"], json.loads(line)["reason"]) for line in lines] == [
        ("used", None),
        ("dropped", "empty answer"),
        ("not_sampled", None),
    ]


def test_counts_of_a_ledger():
    ledger = ledger_of(
        [
            used("1", tokens=10, trained_tokens=4, copies=2, examples=3),
            used("2", tokens=5, trained_tokens=1, truncated_messages=1),
            dropped("3", "too long"),
            not_sampled("4"),
            used("1", source="b", tokens=7, trained_tokens=7, truncated_tokens=6, copies=2),
        ]
    )
    assert ledger.counts == {
        "a": {
            "rows": 4, "used": 2, "dropped": 1, "not_sampled": 1, "truncated": 1,
            "examples": 7, "tokens": 25, "trained_tokens": 9, "truncated_tokens": 0,
        },
        "b": {
            "rows": 1, "used": 1, "dropped": 0, "not_sampled": 0, "truncated": 1,
            "examples": 2, "tokens": 14, "trained_tokens": 14, "truncated_tokens": 12,
        },
    }  # fmt: skip
    assert ledger.split_rows == {"a": 1, "b": 0}


def test_reasons_by_frequency_then_name():
    ledger = ledger_of([dropped("1", "b"), dropped("2", "c"), dropped("3", "a"), dropped("4", "c"), used("5")])
    assert list(ledger.reasons().items()) == [("c", 2), ("a", 1), ("b", 1)]


def test_refusal_names_share_reasons_and_setting():
    entries = [used(f"rows.jsonl:{line}") for line in range(1, 96)]
    entries += [dropped("rows.jsonl:96", "too long"), dropped("rows.jsonl:97", "empty answer")]
    entries += [dropped("rows.jsonl:98", "too long"), dropped("rows.jsonl:99", "x"), dropped("rows.jsonl:100", "y")]
    assert refusal(entries, 0.01) == (
        "data.budget.dropped: 5 of 100 rows (5.00%) were dropped, more than 1.00%: "
        "2 too long (rows.jsonl:96), 1 empty answer (rows.jsonl:97), 1 x (rows.jsonl:99), and 1 more reasons\n"
        "  fix: repair the rows\n   or: data.budget.dropped=0.05"
    )


@pytest.mark.parametrize(
    ("num_used", "num_dropped", "proposed"), [(2, 1, "0.34"), (99, 2, "0.02"), (9999, 9, "0.0009"), (1, 1, "0.5")]
)
def test_proposed_budget_is_sufficient(num_used, num_dropped, proposed):
    entries = [used("u")] * num_used + [dropped("d", "x")] * num_dropped
    assert refusal(entries, 0.0).endswith(f"data.budget.dropped={proposed}")
    check(entries, float(proposed))


def test_share_equal_to_the_budget_is_accepted():
    check([used("1")] * 99 + [dropped("2", "x")], 0.01)
    check([used("1")], 0.0)
    check([], 0.0)


def test_rows_not_sampled_do_not_lower_the_share():
    entries = [used("1")] * 9 + [dropped("2", "x")] + [not_sampled("3")] * 1000
    assert refusal(entries, 0.05).startswith("data.budget.dropped: 1 of 10 rows (10.00%) were dropped, more than 5.00%")


def test_source_without_remaining_rows_is_refused():
    entries = [used(str(line)) for line in range(999)] + [dropped("b.jsonl:1", "empty answer", source="b")]
    assert refusal(entries, 0.5) == (
        "data.mix.b: no row is left, 1 were dropped: 1 empty answer (b.jsonl:1)\n"
        "  fix: repair the rows, or remove the source from data.mix"
    )


def test_filtered_rows_have_their_own_budget():
    entries = [used("1")] * 6 + [dropped("2", "near duplicate", filter="near_duplicates")] * 3 + [dropped("3", "x")]
    check(entries, 0.2)
    assert refusal(entries, 0.1, filtered=0.2) == (
        "data.budget.dropped: 1 of 7 rows (14.29%) were dropped, more than 10.00%: 1 x (3)\n"
        "  fix: repair the rows\n   or: data.budget.dropped=0.15\n"
        "data.budget.filtered: 3 of 10 rows (30.00%) were filtered out, more than 20.00%: 3 near duplicate (2)\n"
        "  fix: repair the rows\n   or: data.budget.filtered=0.3"
    )


def test_budgets_for_truncated_and_unproven_rows():
    entries = [used("1", truncated_messages=2), used("2"), dropped("3", "mask not proven"), dropped("4", "x")]
    assert refusal(entries, 0.5, truncated=0.1, unproven=0.0) == (
        "data.budget.unproven: 1 of 4 rows (25.00%) were not proven, more than 0.00%: 1 mask not proven (3)\n"
        "  fix: repair the rows\n   or: data.budget.unproven=0.25\n"
        "data.budget.truncated: 1 of 2 rows (50.00%) were truncated, more than 10.00%: 1 too long for all turns (1)\n"
        "  fix: raise trainer.max_length\n   or: data.budget.truncated=0.5"
    )


def test_truncated_row_excluded_by_the_mix_is_not_counted_as_truncated():
    """The share is relative to the used rows and never above 1: a budget of 1 is always sufficient."""
    left_out = LedgerEntry(where="2", source="a", split="train", fate="not_sampled", tokens=9, truncated_tokens=5)
    check([used("1", truncated_tokens=3), left_out], truncated=1.0)
    assert ledger_of([used("1"), left_out]).counts["a"]["truncated"] == 0


def test_source_can_have_its_own_budget():
    entries = [used("1")] * 99 + [used("b:1", source="b"), dropped("b:2", "x", source="b")]
    check(entries, 0.01, sources={"a": {"dropped": 0.0}, "b": {}})
    assert refusal(entries, 0.01, sources={"b": {"dropped": 0.1}}) == (
        "data.mix.b.budget.dropped: 1 of 2 rows (50.00%) were dropped, more than 10.00%: 1 x (b:2)\n"
        "  fix: repair the rows\n   or: data.mix.b.budget.dropped=0.5"
    )


def test_dropped_row_requires_a_reason():
    with pytest.raises(AssertionError, match="rows:1: dropped, None"):
        LedgerEntry(where="rows:1", source="a", split="train", fate="dropped")
    with pytest.raises(AssertionError, match="rows:1: used, x"):
        LedgerEntry(where="rows:1", source="a", split="train", fate="used", reason="x")


def test_limit_is_not_exceeded_by_rounding():
    """0.29 * 100 is 28.999999999999996."""
    entries = [used(f"a:{i}") for i in range(71)] + [dropped(f"b:{i}", "bad") for i in range(29)]
    check(entries, 0.29)
    with pytest.raises(SftError, match="29 of 100 rows"):
        check(entries, 0.289)
