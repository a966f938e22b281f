"""Scorers by name: options are typed, mistakes get the nearest name, and packages add metrics by an entry point."""

import sys
from dataclasses import is_dataclass
from importlib import import_module

import pytest

from sft_cli.errors import SftError
from sft_cli.scoring.registry import SCORERS, make_scorer, scorer_names
from sft_cli.utils.entry_points import entry_points_by_name
from tests.scoring.items import HOSTILE, item, score

NEEDED = {"classification": {"labels": ["yes", "no"]}, "length": {"max_words": 5}}
"""Options that a score needs."""


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "code"])
def test_every_scorer_is_made_with_its_defaults_and_its_options_are_documented(name):
    module, _, kind = SCORERS[name].partition(":")
    scorer_class = vars(import_module(module))[kind]
    assert is_dataclass(make_scorer(name, NEEDED.get(name, {}), "metric"))
    options = [option for option in scorer_class.__dataclass_fields__ if not option.startswith("_")]
    assert [option for option in options if f"{option}: " not in scorer_class.__doc__] == []
    assert f"``{name}" in scorer_class.__doc__ or "``" in scorer_class.__doc__


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exact_macth", {}, "suite.metric: unknown metric 'exact_macth'; known are"),
        ("exact_macth", {}, "fix: did you mean exact_match?"),
        ("regex", {"patern": "x"}, "suite.metric.patern: regex has no option patern; its options are pattern, "),
        ("regex", {"patern": "x"}, "fix: did you mean pattern?"),
        ("exact_match", {"x": 1}, "suite.metric.x: exact_match has no option x; it has no options\n  fix: remove x"),
        ("regex", {"pattern": "("}, "suite.metric.pattern: '(' is not a regular expression: missing )"),
        ("regex", {"whole": "yes"}, "suite.metric.whole: 'yes' is not of the type bool"),
        ("length", {"max_words": True}, "suite.metric.max_words: True is not of the type int"),
        (
            "bleu",
            {"tokenize": "13"},
            "suite.metric.tokenize: '13' is not one of 13a, intl, zh, char, none\n  fix: tokenize: ",
        ),
        ("classification", {}, "suite.metric.labels: classification needs the option labels\n  fix: set labels"),
        ("classification", {"labels": "yes"}, "suite.metric.labels: 'yes' is not a list\n  fix: labels: [yes]"),
        ("classification", {"labels": ["A", "a"]}, "are not two or more different labels"),
        (
            "json_schema",
            {"schema": {"type": "no"}},
            "suite.metric.schema: not a JSON Schema: $.type: 'no' is not valid",
        ),
        ("choice_letter", {"letters": "AA"}, "suite.metric.letters: 'AA' are not two or more different letters"),
        ("sycophancy", {"metric": "exact"}, "sycophancy.metric: unknown metric 'exact'"),
    ],
)
def test_mistakes_are_refused(name, options, message):
    with pytest.raises(SftError) as error:
        make_scorer(name, options, "suite.metric")
    assert message in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("sft_cli.utils.optional_deps.find_spec", lambda module: None)
    with pytest.raises(
        SftError, match=r"bleu needs sacrebleu, which is not installed\n  fix: pip install 'sft-cli\[eval\]'"
    ):
        make_scorer("bleu", {}, "metric")


ELSEWHERE = {"code", "rouge", "bleu", "chrf", "numeric", "regex", "json_schema", "sycophancy", "ifeval", "ifeval_fixed",
             "ifbench"}  # fmt: skip
"""Scorers that start a process, import large packages or need other items: their own tests have hostile answers."""


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_scored_within_zero_and_one(answer):
    fields = {
        "function": [{"name": "f", "parameters": {"properties": {}}}],
        "ground_truth": [{"f": {}}],
        "sources": ["a"],
        "supporting": [1],
        "schema": {"type": "object"},
        "label": "safe",
        "answerable": "yes",
    }
    targets = {"choice_letter": "A", "classification": "yes"}
    seen = 0
    for name in SCORERS:
        if name in ELSEWHERE:
            continue
        value = score(name, answer, targets.get(name, "4"), options=NEEDED.get(name), **fields)
        assert 0 <= value <= 1
        seen += 1
    assert seen > 10


CODE = """
from sft_cli.scoring.types import Verdict

def half(item, answer, bonus=0.0):
    return len(answer.text) / 2 + bonus

def both(item, answer):
    return {"a": 1, "b": True}

def full(item, answer):
    return Verdict({"c": 1.0}, "because")

def text(item, answer):
    return "good"

def fails(item, answer):
    raise KeyError(item.id)

number = 5
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with metrics, as pip installs it."""
    info = tmp_path / "some_metrics-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some_metrics\nVersion: 1.2\n")
    names = ("half", "both", "full", "text", "fails", "number")
    points = [f"{name} = some_metrics_code:{name}" for name in names]
    points += ["absent = no_such_module:f", "contains = some_metrics_code:half"]
    (info / "entry_points.txt").write_text("\n".join(["[sft_cli.metrics]", *points]))
    (tmp_path / "some_metrics_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_points_by_name.cache_clear()
    yield
    entry_points_by_name.cache_clear()
    sys.modules.pop("some_metrics_code", None)


@pytest.mark.usefixtures("installed")
def test_a_metric_of_a_package_is_used_by_name():
    assert "half" in scorer_names()
    assert score("half", "abc", options={"bonus": 1}) == 2.5
    assert score("both", "abc") == 1.0
    assert score("full", "abc") == 1.0


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "half",
            {"bonsu": 1},
            "metric.bonsu: half has no option bonsu; its options are bonus\n  fix: did you mean bonus?",
        ),
        ("text", {}, "item 1: the metric text returned 'good' as text; expected a finite number"),
        ("fails", {}, "item 1: the metric fails raised KeyError: '1'"),
        ("number", {}, "metric: the metric number (some_metrics 1.2) is 5, not a function"),
        ("absent", {}, "metric: the metric absent (some_metrics 1.2) cannot be imported: ModuleNotFoundError"),
        ("contains", {}, "more than one metric has the name 'contains': sft itself, contains (some_metrics 1.2)"),
    ],
)
def test_mistakes_of_a_package_are_reported(name, options, message):
    with pytest.raises(SftError) as error:
        score(name, "abc", options=options)
    assert message in str(error.value)


@pytest.mark.parametrize("metric", ["exact_match", "contains", "gsm8k_strict", "token_f1", "choice_letter"])
def test_an_item_without_an_expected_answer_is_refused(metric):
    with pytest.raises(SftError, match="item 1: the item has no expected answer"):
        score(metric, "5")
    assert item().target == ()
