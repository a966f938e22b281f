"""Keys of suites that do not fit together, and keys that no suite of a kind reads."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.rules.suites import check_suite_keys
from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.errors import SftError

MISTAKES = [
    (
        ["eval=gsm8k", "eval.suites.gsm8k.samples=5"],
        "eval.suites.gsm8k.temperature is 0: all answers would be the same",
    ),
    (["eval=gsm8k", "eval.suites.gsm8k.reduce=[median]"], "names 'median', which is no reducer"),
    (["eval=gsm8k", "eval.suites.gsm8k.reduce=[pass@5]"], "names pass@5, but eval.suites.gsm8k.samples is 1"),
    (["eval=gsm8k", "eval.suites.gsm8k.kind=choices"], "eval.suites.gsm8k.kind is choices, but it has no choices"),
    (["eval=arc_easy", "eval.suites.arc_easy.samples=2"], "a suite of kind choices does not read it"),
    (["eval=arc_easy", "eval.suites.arc_easy.second_prompt=Sure?"], "a suite of kind choices does not read it"),
    (["eval=heldout", "eval.suites.heldout.variants.seed=1"], "a suite of kind heldout does not read it"),
    (["eval.lm_eval.task_dir=tasks"], "eval.lm_eval.task_dir would have no effect: no task is chosen"),
    (["eval=gsm8k", "eval.suites.gsm8k.gold=0"], "a suite of kind generate does not read it"),
    (["eval=heldout", "eval.suites.heldout.limit=3"], "a suite of kind heldout does not read it"),
    (["eval=gsm8k", "eval.suites.gsm8k.limt=5"], "there is no key eval.suites.gsm8k.limt"),
    (["eval=gsm8k", "eval.suites.gsm8k.options.x=5"], "but eval.suites.gsm8k.scorers names 2 metrics"),
    (["eval=gsm8q"], "eval has no option 'gsm8q'"),
]


@pytest.mark.parametrize(("words", "problem"), MISTAKES, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_a_mistake_is_named(words, problem):
    with pytest.raises(SftError) as caught:
        compose(words)
    assert problem in str(caught.value)


def test_a_name_is_part_of_a_file_name():
    (mistake,) = check_suite_keys(EvalConfig(suites={"a b": SuiteConfig()}))
    assert mistake.problem == "eval.suites.a b: the name 'a b' must consist of letters, digits, _ and -"


def test_several_suites_and_their_keys():
    config = compose(["eval=[heldout,gsm8k]", "eval.suites.gsm8k.samples=4", "eval.suites.gsm8k.temperature=0.8",
                      "eval.suites.gsm8k.reduce=[mean,pass@4]", "eval.suites.mine.path=rows.jsonl"]).eval  # fmt: skip
    assert list(config.suites) == ["heldout", "gsm8k", "mine"]
    assert (config.suites["gsm8k"].samples, config.suites["gsm8k"].reduce) == (4, ["mean", "pass@4"])
    assert config.suites["mine"].scorers == ["exact_match"]
