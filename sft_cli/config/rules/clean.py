"""Check that the cleaning steps are known filters and that every key of their sections has an effect."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import fields

from sft_cli.config.schema.clean import CleanConfig, Method
from sft_cli.config.validate import ConfigError
from sft_cli.utils.similar import closest_name

FILTERS = tuple(field.name for field in fields(CleanConfig) if field.name != "steps")

_FOUND_BY_MINHASH = 0.99
_DUPLICATES = ("exact_duplicates", "near_duplicates")

_MINHASH = "only the method minhash reads it", "set clean.near_duplicates.method=minhash"
_IDLE: tuple[tuple[str, Callable[[CleanConfig], bool], str, str], ...] = (
    ("near_duplicates.shingle", lambda clean: clean.near_duplicates.method is Method.rouge_l, *_MINHASH),
    ("near_duplicates.permutations", lambda clean: clean.near_duplicates.method is Method.rouge_l, *_MINHASH),
    (
        "heuristics.max_repeated_share",
        lambda clean: not clean.heuristics.repetition,
        "the rule repetition is switched off",
        "set clean.heuristics.repetition=true",
    ),
    (
        "pii.phone_regions",
        lambda clean: "phone" not in clean.pii.kinds,
        "clean.pii.kinds has no phone",
        "add phone to clean.pii.kinds",
    ),
)
"""Key, condition under which it has no effect, reason, and fix."""


def check_clean_keys(clean: CleanConfig) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``clean``."""
    yield from _check_steps(clean)
    if "contamination" in clean.steps:
        yield from _check_contamination(clean)
    if "near_duplicates" in clean.steps:
        yield from _check_near_duplicates(clean)


def unused_clean_keys(clean: CleanConfig, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect."""
    for key in sorted(explicit):
        parts = key.split(".")
        if parts[:2] == ["data", "mix"] and parts[3:] == ["priority"] and not set(_DUPLICATES) & set(clean.steps):
            problem = f"{key} would have no effect: no step looks for duplicates across sources"
            yield ConfigError(key, problem, f"add {' or '.join(_DUPLICATES)} to clean.steps, or remove {key}")
        if parts[0] != "clean" or len(parts) < 3:
            continue
        if parts[1] not in clean.steps:
            steps = ",".join([*clean.steps, parts[1]])
            problem = f"{key} would have no effect: {parts[1]} is not one of clean.steps"
            yield ConfigError(key, problem, f"set clean.steps=[{steps}], or remove {key}")
        for name, idle, reason, fix in _IDLE:
            if key == f"clean.{name}" and parts[1] in clean.steps and idle(clean):
                yield ConfigError(key, f"{key} would have no effect: {reason}", f"{fix}, or remove {key}")


def _check_steps(clean: CleanConfig) -> Iterator[ConfigError]:
    """Yield an error for each step that is not a filter, or is listed twice."""
    for place, name in enumerate(clean.steps):
        if name not in FILTERS:
            similar = closest_name(name, FILTERS)
            hint = f"did you mean {similar}? " if similar else ""
            problem = f"clean.steps names {name!r}, which is not a filter"
            yield ConfigError("clean.steps", problem, f"{hint}choose from {', '.join(FILTERS)}")
        elif name in clean.steps[:place]:
            yield ConfigError("clean.steps", f"clean.steps names {name} twice", "keep one of the two")


def _check_contamination(clean: CleanConfig) -> Iterator[ConfigError]:
    """Yield an error if there is no evaluation set, or for columns of an unknown one."""
    settings, key = clean.contamination, "clean.contamination"
    if not settings.against:
        problem = f"clean.steps names contamination, but {key}.against names no evaluation set"
        yield ConfigError(f"{key}.against", problem, f"set {key}.against.NAME=FILE", clash="clean.steps")
    for name in settings.columns:
        if name not in settings.against:
            similar = closest_name(name, settings.against)
            hint = f"did you mean {similar}? " if similar else ""
            problem = f"{key}.columns names {name!r}, which is not in {key}.against"
            fix = f"{hint}evaluation sets: {', '.join(settings.against) or 'none'}"
            yield ConfigError(f"{key}.columns", problem, fix)


def _check_near_duplicates(clean: CleanConfig) -> Iterator[ConfigError]:
    """Yield an error for a threshold at which MinHash misses too many pairs.

    Bands of one hash function find a pair at threshold t with probability 1 - (1 - t)^functions; other bands find
    fewer.
    """
    settings, key = clean.near_duplicates, "clean.near_duplicates"
    probability = 1 - (1 - settings.threshold) ** settings.permutations
    if settings.method is Method.minhash and probability < _FOUND_BY_MINHASH:
        yield ConfigError(
            f"{key}.threshold",
            f"{key}.threshold is {settings.threshold:g}, so low that {settings.permutations} hash functions would find"
            f" only {probability:.0%} of the pairs",
            f"raise {key}.threshold or {key}.permutations",
            clash=f"{key}.permutations",
        )
