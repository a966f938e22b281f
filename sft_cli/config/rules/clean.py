"""Are the steps of cleaning filters that there are, and would every key of their blocks be read?"""

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
"""Key, when nothing reads it, why, and what to set."""


def check_clean_keys(clean: CleanConfig) -> Iterator[ConfigError]:
    """What does not fit together."""
    yield from _check_steps(clean)
    if "contamination" in clean.steps:
        yield from _check_contamination(clean)
    if "near_duplicates" in clean.steps:
        yield from _check_near_duplicates(clean)


def unused_clean_keys(clean: CleanConfig, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Keys typed on the command line that nothing would read."""
    for key in sorted(explicit):
        parts = key.split(".")
        if parts[:2] == ["data", "mix"] and parts[3:] == ["priority"] and not set(_DUPLICATES) & set(clean.steps):
            problem = f"{key} would have no effect: no step looks for rows that several sources have"
            yield ConfigError(key, problem, f"add {' or '.join(_DUPLICATES)} to clean.steps, or leave {key} out")
        if parts[0] != "clean" or len(parts) < 3:
            continue
        if parts[1] not in clean.steps:
            steps = ",".join([*clean.steps, parts[1]])
            problem = f"{key} would have no effect: {parts[1]} is not one of clean.steps"
            yield ConfigError(key, problem, f"set clean.steps=[{steps}], or leave {key} out")
        for name, idle, reason, fix in _IDLE:
            if key == f"clean.{name}" and parts[1] in clean.steps and idle(clean):
                yield ConfigError(key, f"{key} would have no effect: {reason}", f"{fix}, or leave {key} out")


def _check_steps(clean: CleanConfig) -> Iterator[ConfigError]:
    """Each step is a filter, and is there once."""
    for place, name in enumerate(clean.steps):
        if name not in FILTERS:
            near = closest_name(name, FILTERS)
            hint = f"did you mean {near}? " if near else ""
            problem = f"clean.steps names {name!r}, which is not a filter"
            yield ConfigError("clean.steps", problem, f"{hint}choose from {', '.join(FILTERS)}")
        elif name in clean.steps[:place]:
            yield ConfigError("clean.steps", f"clean.steps names {name} twice", "keep one of the two")


def _check_contamination(clean: CleanConfig) -> Iterator[ConfigError]:
    """There is something to compare with, and columns belong to it."""
    block, key = clean.contamination, "clean.contamination"
    if not block.against:
        problem = f"clean.steps names contamination, but {key}.against names no evaluation set"
        yield ConfigError(f"{key}.against", problem, f"set {key}.against.NAME=FILE", clash="clean.steps")
    for name in block.columns:
        if name not in block.against:
            near = closest_name(name, block.against)
            hint = f"did you mean {near}? " if near else ""
            problem = f"{key}.columns names {name!r}, which is not in {key}.against"
            fix = f"{hint}evaluation sets: {', '.join(block.against) or 'none'}"
            yield ConfigError(f"{key}.columns", problem, fix)


def _check_near_duplicates(clean: CleanConfig) -> Iterator[ConfigError]:
    """Bands of one hash function find a pair at threshold t with probability 1 - (1 - t)^functions; none find more."""
    block, key = clean.near_duplicates, "clean.near_duplicates"
    found = 1 - (1 - block.threshold) ** block.permutations
    if block.method is Method.minhash and found < _FOUND_BY_MINHASH:
        yield ConfigError(
            f"{key}.threshold",
            f"{key}.threshold is {block.threshold:g}, so low that {block.permutations} hash functions would find only "
            f"{found:.0%} of the pairs",
            f"raise {key}.threshold or {key}.permutations",
            clash=f"{key}.permutations",
        )
