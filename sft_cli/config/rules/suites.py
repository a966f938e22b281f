"""Rules of the suites of an evaluation."""

import re
from collections.abc import Collection, Iterator
from dataclasses import fields

from sft_cli.config.keys.typos import override_word
from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import (
    Compat,
    EndpointConfig,
    EvalEngine,
    SuiteConfig,
    SuiteFormat,
    SuiteKind,
    VariantsConfig,
)
from sft_cli.config.validate import ConfigError
from sft_cli.utils.similar import closest_name

_NAME = re.compile(r"[\w-]+")
REDUCER = re.compile(r"mean|majority|pass@([1-9]\d*)")
"""Names of reducers."""
_OF_GENERATION = ("samples", "temperature", "top_p", "seed", "max_new_tokens", "stop", "reduce", "target", "scorers",
                  "options", "second_prompt", "second_target")  # fmt: skip
_OF_CHOICES = ("choices", "gold", "compat")
_OF_TEXTS = ("window", "stride")
_NOT_OF_TEXTS = ("prompt", "system", "messages", "tools", "id", "cluster", "tags", "answers", "hub", "subset", "split",
                 "revision", "format", "shots.count")  # fmt: skip
_OF_VARIANTS = tuple(f"variants.{field.name}" for field in fields(VariantsConfig))
PLAIN = "plain"
"""Name of the unchanged question among its variants."""
VARIANT_KINDS = ("typos", "upper", "lower", "distractor")
"""Changes of a question that need no other text."""


def check_suite_keys(config: EvalConfig) -> Iterator[ConfigError]:
    """Yield an error for each suite whose keys do not fit together, and for a limit of cost without prices."""
    if config.max_cost is not None and not (config.endpoint.price_input or config.endpoint.price_output):
        yield ConfigError(
            "eval.max_cost",
            "eval.max_cost is set, but eval.endpoint has no prices",
            "set eval.endpoint.price_input=PRICE and eval.endpoint.price_output=PRICE, of a million tokens each",
        )
    for name, suite in config.suites.items():
        key = f"eval.suites.{name}"
        if not _NAME.fullmatch(name):
            yield ConfigError(
                key, f"{key}: the name {name!r} must consist of letters, digits, _ and -", f"rename {key}"
            )
        if suite.kind is SuiteKind.choices:
            yield from _check_choices(suite, key)
        else:
            yield from _check_samples(suite, key)
        yield from _check_variants(suite, key)
        yield from _check_second_turn(suite, key)
        if suite.options and len(suite.scorers) != 1:
            yield ConfigError(
                f"{key}.options",
                f"{key}.options are set, but {key}.scorers names {len(suite.scorers)} metrics",
                f"keep one of them in {key}.scorers",
                clash=f"{key}.scorers",
            )
        if suite.window is not None and suite.stride is not None and suite.stride >= suite.window:
            yield ConfigError(
                f"{key}.stride",
                f"{key}.stride is {suite.stride}, but {key}.window is {suite.window}: the tokens would have no context",
                f"set {key}.stride={suite.window // 2}",
                clash=f"{key}.window",
            )
        if suite.prompt == "":
            yield ConfigError(f"{key}.prompt", f"{key}.prompt is empty", f"set {key}.prompt='{{{{ COLUMN }}}}'")


def check_retention(config: EvalConfig) -> Iterator[ConfigError]:
    """Yield an error for each name in ``eval.retention`` that is no chosen suite."""
    for name in config.retention:
        suite = name.partition(".")[0]
        if suite not in config.suites:
            near = closest_name(suite, config.suites)
            yield ConfigError(
                "eval.retention",
                f"eval.retention names {name!r}, but there is no suite {suite!r}",
                f"did you mean {near}?" if near else f"choose it: eval=[{','.join([*config.suites, suite])}]",
            )


def _check_choices(suite: SuiteConfig, key: str) -> Iterator[ConfigError]:
    """Yield an error for each key that a suite of choices lacks."""
    for field, value, example in (("choices", suite.choices, "choices"), ("gold", suite.gold, "gold")):
        if value is None:
            yield ConfigError(
                f"{key}.{field}",
                f"{key}.kind is choices, but it has no {field}",
                f"set {override_word(f'{key}.{field}', f'{{{{ {example} }}}}')}",
            )


def _check_variants(suite: SuiteConfig, key: str) -> Iterator[ConfigError]:
    """Yield errors in the names of variants, and for variants that have nothing to replace."""
    variants, key = suite.variants, f"{key}.variants"
    for name in variants.kinds:
        if name not in VARIANT_KINDS:
            near = closest_name(name, VARIANT_KINDS)
            yield ConfigError(
                f"{key}.kinds",
                f"{key}.kinds names {name!r}, which is no change of a question",
                f"did you mean {near}?" if near else f"choose from {', '.join(VARIANT_KINDS)}",
            )
    names = [*variants.kinds, *variants.prompts, *variants.files]
    for name in dict.fromkeys(names):
        if name == PLAIN or not _NAME.fullmatch(name) or names.count(name) > 1:
            problem = "is used twice" if names.count(name) > 1 else "cannot be a variant's"
            yield ConfigError(key, f"{key}: the name {name!r} {problem}", f"rename {name}")
    if variants.prompts and suite.messages is not None:
        yield ConfigError(
            f"{key}.prompts",
            f"{key}.prompts are set, but the suite asks messages, not a prompt",
            f"set {key}.files, with rows that have other messages",
        )
    if variants.files and suite.id is None:
        owner = key.removesuffix(".variants")
        yield ConfigError(
            f"{key}.files",
            f"{key}.files are set, but {owner}.id is not, by which their rows are found",
            f"set {override_word(f'{owner}.id', '{{ id }}')}",
        )


def _check_second_turn(suite: SuiteConfig, key: str) -> Iterator[ConfigError]:
    """Yield errors in the keys of a second turn."""
    if suite.second_target is not None and suite.second_prompt is None:
        yield ConfigError(
            f"{key}.second_target",
            f"{key}.second_target is set, but there is no {key}.second_prompt",
            f"set {key}.second_prompt, or remove {key}.second_target",
        )
    if suite.second_prompt is not None and suite.format is SuiteFormat.text:
        yield ConfigError(
            f"{key}.second_prompt",
            f"{key}.second_prompt needs a conversation, but {key}.format is text",
            f"set {key}.format=chat",
            clash=f"{key}.format",
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
    """Yield an error for each key of suites and tasks on the command line that has no effect."""
    for field in ("task_dir", "shots", "chat"):
        key = f"eval.lm_eval.{field}"
        if key in explicit and not config.lm_eval.tasks:
            yield ConfigError(
                key, f"{key} would have no effect: no task is chosen", "set eval.lm_eval.tasks=[NAME], or remove it"
            )
    if config.engine is not EvalEngine.openai:
        for key in ("eval.max_cost", *(f"eval.endpoint.{field.name}" for field in fields(EndpointConfig))):
            if key in explicit:
                yield ConfigError(
                    key, f"{key} would have no effect: the engine is local", f"set eval.engine=openai, or remove {key}"
                )
    for name, suite in config.suites.items():
        others = (*(_OF_GENERATION if suite.kind is SuiteKind.choices else _OF_CHOICES), *_OF_TEXTS)
        if suite.kind is SuiteKind.perplexity:
            others = (*_OF_CHOICES, *_OF_GENERATION, *_NOT_OF_TEXTS, *_OF_VARIANTS)
        if suite.kind is SuiteKind.memorisation:
            read = ("seed", "max_new_tokens")
            others = (*_OF_CHOICES, *_OF_GENERATION, *_OF_TEXTS, *_NOT_OF_TEXTS, *_OF_VARIANTS, "path", "file")
            others = tuple(field for field in others if field not in read)
        if suite.kind is SuiteKind.heldout:
            others = (*_OF_CHOICES, *_OF_GENERATION, *_OF_TEXTS, "path", "prompt", "limit", *_OF_VARIANTS)
        for field in others:
            key = f"eval.suites.{name}.{field}"
            if key in explicit:
                yield ConfigError(
                    key,
                    f"{key} would have no effect: a suite of kind {suite.kind.value} does not read it",
                    f"remove {key}",
                )
