"""Expansion of words with several values into command lines."""

import pytest

from sft_cli.config.compose import Merged, compose
from sft_cli.config.overrides.grammar import parse_sweep
from sft_cli.config.overrides.parse import OverrideError
from sft_cli.config.overrides.sweep import expand_sweep
from sft_cli.errors import Mistakes, SftError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param("1e-4", None, id="one"),
        pytest.param("[1,2]", None, id="one-list"),
        pytest.param("'a,b'", None, id="one-quoted-text"),
        pytest.param("1e-4,2e-4", ["1e-4", "2e-4"], id="as-typed"),
        pytest.param("1e-4, 2e-4", ["1e-4", "2e-4"], id="spaces"),
        pytest.param("choice(1e-4,[a,b])", ["1e-4", "[a,b]"], id="choice"),
        pytest.param("choice(8)", ["8"], id="choice-of-one"),
        pytest.param("[a,b],[c]", ["[a,b]", "[c]"], id="lists"),
        pytest.param("{a: 1,b: 2},{c: 3}", ["{a: 1,b: 2}", "{c: 3}"], id="mappings"),
        pytest.param("'a,b',c", ["'a,b'", "c"], id="quotes"),
        pytest.param("null,5", ["null", "5"], id="null"),
        pytest.param("x y.jsonl,z.jsonl", ["x y.jsonl", "z.jsonl"], id="text-with-a-space"),
        pytest.param("range(1,4)", ["1", "2", "3"], id="range"),
        pytest.param("range(3)", ["0", "1", "2"], id="range-from-0"),
        pytest.param("range(4,1,-1)", ["4", "3", "2"], id="range-down"),
        pytest.param("range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"], id="range-without-rounding-errors"),
        pytest.param("range(5,1)", [], id="empty"),
        pytest.param("range(0,1000000000)", ["0", "1", "2", "3", "4"], id="no-billions"),
        pytest.param("sort(3,1,2)", ["1", "2", "3"], id="sort"),
        pytest.param("sort(range(1,4),reverse=true)", ["3", "2", "1"], id="sort-range"),
        pytest.param("float(1,2)", ["1.0", "2.0"], id="cast"),
        pytest.param("tag(a,choice(1,2))", ["1", "2"], id="tag"),
        pytest.param("glob(l*)", ["loftq", "lora"], id="glob"),
    ],
)
def test_values_of_one_word(text, values):
    assert parse_sweep(text, ["none", "lora", "loftq"], 4) == values


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("interval(1,2)", "interval() has no finite list of values; list them, or use range(start,stop,step)"),
        ("shuffle(1,2)", "shuffle() would change the order, and the names of the members, each time; remove it"),
        ("1,,2", "cannot be read"),
        ("1" * 20_001, "the value has 20,001 characters, more than 20,000; write it into a recipe"),
    ],
)
def test_sweeps_without_a_list_of_values_are_errors(text, why):
    with pytest.raises(OverrideError) as caught:
        parse_sweep(text, (), 10)
    assert str(caught.value) == why


def test_combinations_follow_the_order_of_the_words():
    """The last key changes fastest; words with one value keep their place."""
    found = expand_sweep(["trainer.lr=1e-4,2e-4", "recipe=quickstart", "adapter=lora,dora"])

    assert found.keys == ("trainer.lr", "adapter")
    assert found.members == (
        ("trainer.lr=1e-4", "recipe=quickstart", "adapter=lora"),
        ("trainer.lr=1e-4", "recipe=quickstart", "adapter=dora"),
        ("trainer.lr=2e-4", "recipe=quickstart", "adapter=lora"),
        ("trainer.lr=2e-4", "recipe=quickstart", "adapter=dora"),
    )
    assert found.values == (("1e-4", "lora"), ("1e-4", "dora"), ("2e-4", "lora"), ("2e-4", "dora"))


def test_last_word_is_used_if_a_key_is_set_twice():
    found = expand_sweep(["trainer.lr=1,2,3", "trainer.lr=4,5"])
    assert found.members == (("trainer.lr=4",), ("trainer.lr=5",))


def test_text_that_hydra_cannot_parse_is_one_value():
    """``sft train model.path='a(b'`` works too."""
    found = expand_sweep(["model.path=a(b", "trainer.lr=1,2"])
    assert found.members == (("model.path=a(b", "trainer.lr=1"), ("model.path=a(b", "trainer.lr=2"))


def test_user_options_are_matched_by_glob(tmp_path):
    (tmp_path / "trainer").mkdir()
    for name in ("short", "shorter", "long"):
        (tmp_path / "trainer" / f"{name}.yaml").write_text("lr: 1e-3\n")
    assert expand_sweep(["trainer=glob(sh*)"], [str(tmp_path)]).values == (("short",), ("shorter",))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            ["recipe=quickstart", "trainer.lr=1e-4"],
            "command line: no word has several values, so there is nothing to sweep over\n"
            "  fix: for one run type sft train; for a sweep give a key several values, as in trainer.lr=1e-4,2e-4",
            id="no-sweep",
        ),
        pytest.param(
            ["adapter.target_modules=q_proj,v_proj"],
            "command line: adapter.target_modules=q_proj,v_proj sweeps over 2 values, but adapter.target_modules is a"
            ' list\n  fix: write "adapter.target_modules=[q_proj,v_proj]" for one list, or'
            ' "adapter.target_modules=[q_proj],[v_proj]" for a sweep over 2',
            id="a-list-without-brackets",
        ),
        pytest.param(
            ["trainer.lr=interval(1e-5,1e-3)"],
            "command line: trainer.lr=interval(1e-5,1e-3): interval() has no finite list of values; list them, or"
            " use range(start,stop,step)\n  fix: write trainer.lr=VALUE,VALUE",
            id="interval",
        ),
        pytest.param(
            ["trainer.seed=range(5,1)"],
            "command line: trainer.seed=range(5,1) has no value\n  fix: write trainer.seed=VALUE,VALUE",
            id="empty",
        ),
        pytest.param(
            ["trainer.lr=1,2,1"],
            "command line: trainer.lr=1,2,1 names 1 twice\n  fix: write trainer.lr=1,2",
            id="twice",
        ),
        pytest.param(
            ["trainer.seed=range(0,100)", "trainer.lr=range(1,20)"],
            "command line: a sweep has at most 1,000 members, and this one has 1,900: 100 of trainer.seed x 19 of"
            " trainer.lr\n  fix: give fewer values, as in trainer.seed=0,1, in several sweeps",
            id="too-many",
        ),
        pytest.param(
            ["trainer.seed=range(0,1000000000)"],
            "command line: a sweep has at most 1,000 members, and this one has at least 1,001: 1,001 of trainer.seed\n"
            "  fix: give fewer values, as in trainer.seed=0,1, in several sweeps",
            id="billions",
        ),
    ],
)
def test_mistakes(words, sentence):
    with pytest.raises(SftError) as caught:
        expand_sweep(words)
    assert str(caught.value) == sentence


def test_all_mistakes_at_once():
    with pytest.raises(Mistakes) as caught:
        expand_sweep(["trainer.lr=interval(1,2)", "trainer.seed=1,1", "adapter.target_modules=a,b"])
    assert len(caught.value.errors) == 3


def test_composing_with_a_cache_equals_composing_alone(tmp_path):
    """The cache holds Hydra's merged options: values and recipes of one line must not affect the next."""
    (tmp_path / "mine.yaml").write_text("# @package _global_\ndefaults: [quickstart]\ntrainer:\n  lr: 5e-3\n")
    lines = [
        ["recipe=quickstart", "trainer.lr=1", "data.mix.quickstart.weight=2"],
        ["recipe=mine", "adapter.rank=3"],
        ["recipe=quickstart"],
        ["recipe=mine", "adapter=dora"],
        ["recipe=mine"],
        ["recipe=quickstart", "data.mix.other.path=x.jsonl"],
        ["recipe=quickstart", "trainer.seed=3"],
    ]
    known: dict[str, Merged] = {}
    for line in lines:
        assert compose(line, [str(tmp_path)], known) == compose(line, [str(tmp_path)])
    assert len(known) == 3

    wrong = ["recipe=mine", "speed.tokens_per_micro_batch=8"]
    with pytest.raises(SftError) as alone:
        compose(wrong, [str(tmp_path)])
    with pytest.raises(SftError) as together:
        compose(wrong, [str(tmp_path)], known)
    assert str(together.value) == str(alone.value)
