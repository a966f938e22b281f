"""Suggestions of numbers, lists and choices for misspelt values."""

import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sft_cli.config.keys.typos import is_valid_value, override_word, suggest_positive, suggest_values
from sft_cli.config.keys.valid_keys import KEYS, Key
from sft_cli.utils.similar import closest_name, distance_if_similar, edit_distance
from tests.lanes import examples

FLOATS = [key for key in KEYS.values() if key.kind in (float, float | None)]
INTS = [key for key in KEYS.values() if key.kind in (int, int | None)]
NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)
quick = settings(max_examples=examples(60), deadline=None)


@quick
@given(st.sampled_from(FLOATS), st.floats(1e-6, 0.99), st.integers(1, 6))
def test_decimal_comma_is_read_as_a_point(key: Key, number: float, digits: int):
    number = round(number, digits)
    assume(is_valid_value(key.kind, key.limits, number) and number)
    text = f"{number:.{digits}f}".replace(".", ",")
    assert suggest_values(key.kind, key.limits, text)[0] == pytest.approx(number)


@quick
@given(st.sampled_from(INTS), st.integers(8, 999))
def test_integer_is_suggested_for_fractions_and_thousands(key: Key, number: int):
    assume(is_valid_value(key.kind, key.limits, number))
    assert suggest_values(key.kind, key.limits, float(number)) == [number]
    assert suggest_values(key.kind, key.limits, f"'{number}'") == [number]
    assume(is_valid_value(key.kind, key.limits, 1000 * number))
    assert suggest_values(key.kind, key.limits, f"{number},000")[0] in (number, 1000 * number)
    assert suggest_values(key.kind, key.limits, f"{number}k")[0] == 1000 * number


@quick
@given(st.sampled_from([key for key in FLOATS if key.limits.get("lt", key.limits.get("le")) == 1]), st.integers(2, 99))
def test_share_above_one_suggests_percent(key: Key, number: int):
    assert suggest_values(key.kind, key.limits, number) == [f"{number}%"]
    assert is_valid_value(float, key.limits, f"{number}%")


@quick
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["{}", "[{}]", "({})", "'[{}]'", "{},"]))
def test_list_is_suggested_for_any_brackets(names, around):
    for between in (",", ", ", " ", ";"):
        text = around.format(between.join(names))
        assert suggest_values(list[str], {}, text) == [names]


@quick
@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=3), st.sampled_from([":", "=", ": "]))
def test_mapping_is_suggested_for_any_separator(values, sign):
    text = ", ".join(f"{name}{sign}{value}" for name, value in values.items())
    assert suggest_values(dict[str, str], {}, text) == [values]


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_meaningless_text_gets_no_suggestion(key: Key):
    """The text resembles no valid value of any kind."""
    if not is_valid_value(key.kind, key.limits, "zqxj") and "list" not in str(key.kind):
        assert suggest_values(key.kind, key.limits, "zqxj") == []


@pytest.mark.parametrize(
    ("kind", "limits", "typed", "meant"),
    [
        (float, {"gt": 0}, "10^-4", [1e-4]),
        (float, {"gt": 0}, "2x10^-4", [2e-4]),
        (float, {"gt": 0}, "1/8", [0.125]),
        (float, {"gt": 0}, -1e-4, [1e-4]),
        (float, {"gt": 0}, "−", []),
        (float, {"gt": 0}, 0, []),
        (float, {"gt": 0}, float("nan"), []),
        (float, {"gt": 0}, None, []),
        (float, {"gt": 0}, True, []),
        (float, {"ge": 0, "lt": 1}, "5 percent", [0.05]),
        (int, {"ge": 1}, 2.5, [2, 3]),
        (int, {"ge": 1}, "3 epochs", [3]),
        (int, {"ge": 1}, 0, []),
        (int, {"ge": 8}, 4, [8]),
        (int | None, {"ge": 1}, -1, [None]),
        (int | None, {"ge": 1}, 0, []),
        (int | None, {"ge": 1}, "none", [None]),
        (bool, {}, "Yes", [True]),
        (bool, {}, "OFF", [False]),
        (bool, {}, 1, [True]),
        (bool, {}, 2, []),
        (tuple[float, float], {}, "0.9,0.95", [[0.9, 0.95]]),
        (tuple[float, float], {}, "0.9", []),
        (list[str], {}, [1, True], [["1", "true"]]),
    ],
)
def test_suggest_values(kind, limits, typed, meant):
    assert suggest_values(kind, limits, typed) == meant


def test_quote_override_round_trips_through_a_shell():
    assert override_word("trainer.lr", 2e-05) == "trainer.lr=2e-5"
    assert override_word("trainer.lr", 1e-4) == "trainer.lr=0.0001"
    assert override_word("a", ["b", "c"]) == "a=[b,c]"
    assert override_word("a", {"b": "c d"}) == "'a={b: c d}'"
    assert override_word("a", "x y.jsonl") == "'a=x y.jsonl'"
    assert override_word("a", None) == "a=null"
    assert suggest_positive("price", "0,5") == "did you mean price=0.5?"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trainer.lrr", "trainer.lr"),
        ("trainer.epoch", "trainer.epochs"),
        ("max_len", "max_length"),
        ("grad_norm", "max_grad_norm"),
        ("wieght_decay", "weight_decay"),
        ("plot_loss", None),
        ("strict", None),
        ("special_tokens", None),
        ("evals_per_epoch", None),
        ("overwrite_cache", None),
        ("", None),
    ],
)
def test_closest_name_finds_typos_and_parts_of_names(typed, meant):
    names = ["trainer.lr", "trainer.epochs", "max_length", "max_grad_norm", "weight_decay", "z_loss", "metric"]
    others = ["virtual.tokens", "examples_per_step", "override_system", "retention.stop"]
    assert closest_name(typed, [*names, *others]) == meant


@quick
@given(NAMES, NAMES)
def test_edit_distance_is_a_metric(one, other):
    most = max(len(one), len(other))
    assert edit_distance(one, other, most) == edit_distance(other, one, most) <= most
    assert (edit_distance(one, other, 0) == 0) == (one == other)
    assert distance_if_similar(one, one) == 0


def test_long_words_are_compared_quickly():
    """Words whose lengths differ too much are not compared: ten million letters would take minutes."""
    assert edit_distance("1" * 10_000_000, "trainer.lr", 3) == 9_999_990
    assert closest_name("1" * 100_000, KEYS) is None
