"""Hydra's grammar of what stands behind ``key=``: one value, or the several of a sweep."""

import re
from collections.abc import Collection
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from sft_cli.config.overrides.parse import OverrideError
from sft_cli.config.overrides.shell import SEVERAL

LONGEST = 20_000
"""Characters of a value on the command line that is a number, a list or a mapping: reading them takes a second."""
_CALL = re.compile(r"(sort|tag|int|float|str|bool|json_str)\(")
"""What makes other values of those in its brackets."""
_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "'\""


def parse_value(text: str) -> Any:
    """A value: numbers, true, null, [lists], {mappings}, text.

    Raises:
        Unreadable: It is none, or several.
    """
    override = _override(text)
    if override.is_sweep_override():
        raise OverrideError(SEVERAL)
    try:
        return override.value()
    except ValueError as error:  # a number of thousands of digits
        raise OverrideError("cannot be read") from error


def parse_sweep(text: str, options: Collection[str], most: int) -> list[str] | None:
    """The values of a sweep, each as it would be typed alone; None where the text is one value.

    Args:
        text: ``1e-4,2e-4``, ``range(1,4)``, ``choice(a,b)``, ``sort(3,1)`` or, for a group, ``glob(lo*)``.
        options: What a glob chooses from.
        most: Values that are listed at most; a range may have billions.

    Raises:
        Unreadable: A sweep that has no list of values.
    """
    override = _override(text)
    if not override.is_sweep_override():
        return None
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        raise OverrideError("interval() has no list of values; write them out, or range(start,stop,step)")
    if isinstance(sweep, Glob):
        return sweep.filter(sorted(options))
    assert isinstance(sweep, ChoiceSweep | RangeSweep)
    if sweep.shuffle:
        raise OverrideError("shuffle() would give another order, and other names, each time; leave it out")
    if isinstance(sweep, RangeSweep):
        return _range(sweep, most)
    values = list(override.sweep_string_iterator())
    # As typed where that is a list, so that 1e-4 is not called 0.0001, and text keeps its spaces.
    typed = _split_commas(text.removeprefix("choice(").removesuffix(")") if text.startswith("choice(") else text)
    return values if _CALL.match(text) or len(typed) != len(values) else typed


def _override(text: str) -> Override:
    if len(text) > LONGEST:
        raise OverrideError(f"the value has {len(text):,} characters, and {LONGEST:,} are read; write it into a recipe")
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except (HydraException, RecursionError, ValueError) as error:
        raise OverrideError("cannot be read") from error


def _range(sweep: RangeSweep, most: int) -> list[str]:
    """The numbers of a range as short as they can be; Hydra sums steps, and 0.1 + 0.1 + 0.1 is above 0.3."""
    values = [f"{value:.12g}" for value in islice(sweep.range(), most + 1)]
    return [value for value in values if value != f"{sweep.stop:.12g}"]


def _split_commas(text: str) -> list[str]:
    """What stands between the commas that are outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        depth += 0 if quote else (character in _OPEN) - (character in _CLOSE)
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
