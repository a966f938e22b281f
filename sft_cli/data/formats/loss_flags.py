"""Read the flags by which other tools mark trained messages, and convert them to a message weight."""

import math
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.row_context import RowContext, key_words
from sft_cli.data.row_errors import RowError, short_repr

WEIGHT_KEYS = ("weight", "loss_weight", "loss_scale")
"""Keys of numbers that are the factor on the loss: OpenAI and Mistral; LLaMA-Factory; ms-swift."""
TRAINED_KEYS = (
    "loss", "train", "training", "trained", "trainable", "is_train", "is_trained", "train_on_turn", "train_on",
    "loss_mask", "step_loss_mask", "with_loss", "output_with_loss", "compute_loss", "calculate_loss", "use_loss",
)  # fmt: skip
"""Keys whose true or 1 trains the message: ms-swift, axolotl, XTuner, slime and others."""
MASKED_KEYS = ("masked", "mask", "is_masked", "ignore_loss", "no_loss")
"""Keys whose true excludes the message from training: torchtune and others."""
SPAN_KEYS = ("train_detail", "training_detail")
"""Keys of the trained character spans of a message (axolotl)."""
SUSPECT_WORDS = {"loss", "mask", "masks", "masked", "unmasked", "train", "trained", "training", "trainable", "weight"}
"""Words that make an unknown key a likely loss flag."""

_FACTORS, _TRAINED, _MASKED, _SPANS = (
    {tuple(name.split("_")) for name in names} for names in (WEIGHT_KEYS, TRAINED_KEYS, MASKED_KEYS, SPAN_KEYS)
)
_ALL = _FACTORS | _TRAINED | _MASKED | _SPANS
_TEXTS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_AS_WEIGHT = "write 1 to train on the message and 0 to exclude it"


def is_loss_flag(key: str) -> bool:
    """Return whether a key sets the training weight of its message, or seems to."""
    words = key_words(key)
    return words in _ALL or not SUSPECT_WORDS.isdisjoint(words)


def loss_weight(flags: Mapping[str, Any], field: str, role: str, names: str, context: RowContext) -> float | None:
    """Return the factor on the loss of a message; None when no flag sets one.

    Args:
        flags: The keys for which ``is_loss_flag`` holds, with their values; null is ignored.
        field: Path of the message, for errors.
        role: Role of the message. Only ``data.train_on`` trains roles other than the assistant, so a flag that trains
            one is noted as not read.
        names: Path of the message, for notes.
        context: The row.

    Raises:
        RowError: The meaning of a flag is unknown, or two of them disagree.
    """
    weights = {key: _flag_weight(key, value, field, context) for key, value in flags.items() if value is not None}
    if not weights:
        return None
    (first, weight), *others = weights.items()
    for key, other in others:
        factors = key_words(first) in _FACTORS and key_words(key) in _FACTORS
        if bool(other) != bool(weight) or (factors and other != weight):
            raise RowError(
                where=context.where,
                reason="loss flags that disagree",
                problem=f"field '{field}.{first}' is {short_repr(flags[first])}, '{key}' is {short_repr(flags[key])}: "
                "they give different training weights",
                fix="keep one of them; weight: 1 trains the message, weight: 0 does not",
            )
        if key_words(key) in _FACTORS:
            first, weight = key, other
    if role != "assistant" and weight:
        context.not_read.update(f"{names}.{key} ({role})" for key in weights if key_words(key) not in _FACTORS)
    return weight


def _flag_weight(key: str, value: Any, field: str, context: RowContext) -> float:
    """Return the weight that one flag gives."""
    words = key_words(key)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if words in _FACTORS:
        if not number or not math.isfinite(value) or value < 0:
            raise _invalid(key, value, field, "one finite number of at least 0", _AS_WEIGHT, context)
        return float(value)
    if words not in _TRAINED | _MASKED:
        is_span = words in _SPANS
        expected = "one weight for the whole message" if is_span else "the weight of the message under the key 'weight'"
        advice = (
            "write weight, and mask parts of an answer with data.no_loss_patterns"
            if is_span
            else f"rename it: {_AS_WEIGHT}"
        )
        raise _invalid(key, value, field, expected, advice, context)
    if isinstance(value, str):
        value = _TEXTS.get(value.strip().lower(), value)
    ambiguous = words == ("mask",) and number  # in some tools 1 means trained, in others masked
    if isinstance(value, bool) or (value in (0, 1) and not ambiguous):
        return float(bool(value) != (words in _MASKED))
    if words in (("loss",), ("loss", "mask")) and number and math.isfinite(value) and value >= 0:
        return float(value)
    raise _invalid(key, value, field, "true or false", f"write weight instead: {_AS_WEIGHT}", context)


def _invalid(key: str, value: Any, field: str, expected: str, fix: str, context: RowContext) -> RowError:
    return RowError(
        where=context.where,
        reason="invalid weight",
        problem=f"field '{field}.{key}' is {short_repr(value)}; expected {expected}",
        fix=fix,
    )
