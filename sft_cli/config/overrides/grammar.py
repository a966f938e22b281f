"""Parse the text after ``key=`` with Hydra's grammar: one value, or the values of a sweep."""

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
"""Most characters of a number, list or mapping on the command line: parsing that many takes a second."""
_CALL = re.compile(r"(sort|tag|int|float|str|bool|json_str)\(")
"""Functions of the grammar that compute new values from their arguments."""
_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "'\""


def parse_value(text: str) -> Any:
    """Parse a value: a number, true, null, a [list], a {mapping} or a text.

    Raises:
        OverrideError: The text is not a value, or is several values.
    """
    override = _override(text)
    if override.is_sweep_override():
        raise OverrideError(SEVERAL)
    try:
        return override.value()
    except ValueError as error:  # a number with thousands of digits
        raise OverrideError("cannot be read") from error


def parse_sweep(text: str, options: Collection[str], limit: int) -> list[str] | None:
    """Return the values of a sweep, each as it would be typed alone; None where the text is one value.

    Args:
        text: ``1e-4,2e-4``, ``range(1,4)``, ``choice(a,b)``, ``sort(3,1)`` or, for a group, ``glob(lo*)``.
        options: Names that a glob selects from.
        limit: Most values to list; a range may have billions.

    Raises:
        OverrideError: The sweep has no finite list of values.
    """
    override = _override(text)
    if not override.is_sweep_override():
        return None
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        raise OverrideError("interval() has no finite list of values; list them, or use range(start,stop,step)")
    if isinstance(sweep, Glob):
        return sweep.filter(sorted(options))
    assert isinstance(sweep, ChoiceSweep | RangeSweep)
    if sweep.shuffle:
        raise OverrideError("shuffle() would change the order, and the names of the members, each time; remove it")
    if isinstance(sweep, RangeSweep):
        return _range(sweep, limit)
    values = list(override.sweep_string_iterator())
    # Keep the typed text of each value, so that 1e-4 does not become 0.0001 and text keeps its spaces.
    typed = _split_commas(text.removeprefix("choice(").removesuffix(")") if text.startswith("choice(") else text)
    return values if _CALL.match(text) or len(typed) != len(values) else typed


def _override(text: str) -> Override:
    if len(text) > LONGEST:
        raise OverrideError(f"the value has {len(text):,} characters, more than {LONGEST:,}; write it into a recipe")
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except (HydraException, RecursionError, ValueError) as error:
        raise OverrideError("cannot be read") from error


def _range(sweep: RangeSweep, limit: int) -> list[str]:
    """Return the numbers of a range as short texts, without the rounding error of Hydra's repeated sum."""
    values = [f"{value:.12g}" for value in islice(sweep.range(), limit + 1)]
    return [value for value in values if value != f"{sweep.stop:.12g}"]


def _split_commas(text: str) -> list[str]:
    """Split a text at the commas that are outside brackets and quotes."""
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
