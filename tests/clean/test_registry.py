"""Every filter of the schema is in the table, and filters run by name."""

import importlib
import json
from dataclasses import fields

import pytest

from sft_cli.clean import registry
from sft_cli.config.rules.clean import FILTERS
from sft_cli.config.schema.clean import (
    CleanConfig,
    ContaminationConfig,
    LeakageConfig,
    PerplexityConfig,
    QualityConfig,
    Scope,
)
from sft_cli.errors import SftError
from tests.clean.rows_helpers import dropped_rows, numbered_rows


def test_table_matches_the_schema():
    blocks = [field.name for field in fields(CleanConfig) if field.name != "steps"]
    assert list(registry.FILTERS) == blocks == list(FILTERS)


@pytest.mark.parametrize("name", registry.FILTERS)
def test_every_filter_is_registered(name):
    names = vars(importlib.import_module(registry.FILTERS[name]))
    assert callable(names[f"find_{name}"])
    assert (f"check_{name}" in names) is (name in registry.FILTERS_WITH_CHECK)


def test_filter_receives_its_own_section():
    rows = numbered_rows([("q", "a"), ("q", "b")], held_out=[1])
    assert dropped_rows(registry.run_filter("leakage", rows, CleanConfig())) == [0]
    config = CleanConfig(leakage=LeakageConfig(scope=Scope.conversation))
    assert dropped_rows(registry.run_filter("leakage", rows, config)) == []


def test_check_refuses_invalid_settings():
    config = CleanConfig(
        steps=["leakage", "contamination"], contamination=ContaminationConfig(against={"a": "no.json"})
    )
    with pytest.raises(SftError, match=r"clean\.contamination\.against\.a: 'no\.json' does not exist"):
        registry.check_filters(config)
    registry.check_filters(CleanConfig(steps=["leakage"], contamination=config.contamination))


def test_scores_are_named_after_their_measure():
    config = CleanConfig(quality=QualityConfig(score="judge"), perplexity=PerplexityConfig(score="ifd"))
    names = {name: registry.score_name(name, config) for name in registry.FILTERS}
    assert names == {**{name: name for name in registry.FILTERS}, "quality": "judge", "perplexity": "ifd"}


def test_inputs_depend_on_the_bytes_of_evaluation_sets_not_their_path(tmp_path):
    def inputs(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "exam.jsonl").write_text(text, "utf-8")
        config = ContaminationConfig(against={"exam": str(tmp_path / folder / "exam.jsonl")})
        return registry.filter_inputs("contamination", CleanConfig(contamination=config))

    one, moved, other = inputs("a", '{"text": "One"}'), inputs("b", '{"text": "One"}'), inputs("a", '{"text": "Two"}')
    assert one == moved == json.loads(json.dumps(one))
    assert one != other
    assert one["ngram"] == 10
    assert registry.filter_inputs("leakage", CleanConfig()) == {"scope": "prompt"}
