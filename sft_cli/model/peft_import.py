"""Import PEFT without bitsandbytes, whose import takes seconds that only quantised models need."""

import importlib
import sys
from collections.abc import Callable

BITSANDBYTES = "bitsandbytes"


def is_bitsandbytes_loaded() -> bool:
    """Return whether this process can have bitsandbytes layers: none can exist before the import."""
    return sys.modules.get(BITSANDBYTES) is not None


def is_4bit_loaded() -> bool:
    """Return the same for 4-bit layers, which every supported bitsandbytes has."""
    return is_bitsandbytes_loaded()


PEFT_CHECKS: dict[str, Callable[[], bool]] = {
    "is_bnb_available": is_bitsandbytes_loaded,
    "is_bnb_4bit_available": is_4bit_loaded,
}
"""Replacements for PEFT's checks, which ask at each use whether bitsandbytes is installed, and import it if so."""


def import_peft() -> None:
    """Import PEFT such that it does not import bitsandbytes before a model needs it.

    One helper of PEFT, which nothing here uses, imports bitsandbytes where it is installed; a None in ``sys.modules``
    makes Python treat a module as not importable. All other places ask the two functions above.
    """
    if "peft" in sys.modules:
        return
    from accelerate.utils import is_bnb_available
    from transformers.utils.import_utils import is_bitsandbytes_available

    for remembers_its_answer in (is_bitsandbytes_available, is_bnb_available):
        remembers_its_answer()
    hidden = BITSANDBYTES not in sys.modules
    if hidden:
        sys.modules[BITSANDBYTES] = None  # pyright: ignore[reportArgumentType]
    try:
        importlib.import_module("peft")
    finally:
        if hidden:
            del sys.modules[BITSANDBYTES]
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "peft"]:
        for question in PEFT_CHECKS.keys() & vars(module).keys():
            setattr(module, question, PEFT_CHECKS[question])
