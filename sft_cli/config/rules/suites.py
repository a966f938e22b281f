"""Rules of the suites of an evaluation."""

import re
from collections.abc import Collection, Iterator

from sft_cli.config.keys.typos import override_word
from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import Compat, SuiteConfig, SuiteKind
from sft_cli.config.validate import ConfigError

_NAME = re.compile(r"[\w-]+")
REDUCER = re.compile(r"mean|majority|pass@([1-9]\d*)")
"""Names of reducers."""
_OF_GENERATION = ("samples", "temperature", "top_p", "seed", "max_new_tokens", "stop", "reduce", "target", "scorers",
                  "options")  # fmt: skip
_OF_CHOICES = ("choices", "gold", "compat")


def check_suite_keys(config: EvalConfig) -> Iterator[ConfigError]:
    """Yield an error for each suite whose keys do not fit together."""
    for name, suite in config.suites.items():
        key = f"eval.suites.{name}"
        if not _NAME.fullmatch(name):
            yield ConfigError(
                key, f"{key}: the name {name!r} must consist of letters, digits, _ and -", "choose another name"
            )
        if suite.kind is SuiteKind.choices:
            yield from _check_choices(suite, key)
        else:
            yield from _check_samples(suite, key)
        if suite.options and len(suite.scorers) != 1:
            yield ConfigError(
                f"{key}.options",
                f"{key}.options are set, but {key}.scorers names {len(suite.scorers)} metrics",
                f"keep one of them in {key}.scorers",
                clash=f"{key}.scorers",
            )
        if suite.prompt == "":
            yield ConfigError(f"{key}.prompt", f"{key}.prompt is empty", f"set {key}.prompt='{{{{ COLUMN }}}}'")


def _check_choices(suite: SuiteConfig, key: str) -> Iterator[ConfigError]:
    """Yield an error for each key that a suite of choices lacks."""
    for field, value, example in (("choices", suite.choices, "choices"), ("gold", suite.gold, "gold")):
        if value is None:
            yield ConfigError(
                f"{key}.{field}",
                f"{key}.kind is choices, but it has no {field}",
                f"set {override_word(f'{key}.{field}', f'{{{{ {example} }}}}')}",
            )


def _check_samples(suite: SuiteConfig, key: str) -> Iterator[ConfigError]:
    """Yield errors in the number of answers and their reducers."""
    if suite.samples > 1 and suite.temperature == 0:
        yield ConfigError(
            f"{key}.samples",
            f"{key}.samples is {suite.samples}, but {key}.temperature is 0: all answers would be the same",
            f"set {key}.temperature=0.8, or {key}.samples=1",
            clash=f"{key}.temperature",
        )
    if suite.compat is not Compat.none:
        yield ConfigError(f"{key}.compat", f"{key}.compat is read only with {key}.kind=choices", f"remove {key}.compat")
    for name in suite.reduce:
        match = REDUCER.fullmatch(name)
        if match is None:
            yield ConfigError(
                f"{key}.reduce",
                f"{key}.reduce names {name!r}, which is no reducer",
                f"choose from mean, majority and pass@k, such as {key}.reduce=[mean,pass@1]",
            )
        elif match[1] and int(match[1]) > suite.samples:
            yield ConfigError(
                f"{key}.reduce",
                f"{key}.reduce names {name}, but {key}.samples is {suite.samples}",
                f"set {key}.samples={match[1]} or more",
                clash=f"{key}.samples",
            )


def unused_suite_keys(config: EvalConfig, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key of a suite on the command line that has no effect."""
    for name, suite in config.suites.items():
        others = _OF_GENERATION if suite.kind is SuiteKind.choices else _OF_CHOICES
        if suite.kind is SuiteKind.heldout:
            others = (*_OF_CHOICES, *_OF_GENERATION, "path", "prompt", "limit")
        for field in others:
            key = f"eval.suites.{name}.{field}"
            if key in explicit:
                yield ConfigError(
                    key,
                    f"{key} would have no effect: a suite of kind {suite.kind.value} does not read it",
                    f"remove {key}",
                )
