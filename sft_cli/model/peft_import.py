"""Import PEFT without bitsandbytes, whose import takes seconds that only quantized models need."""

import importlib
import sys
from collections.abc import Callable

BITSANDBYTES = "bitsandbytes"


def is_bitsandbytes_loaded() -> bool:
    """Return whether bitsandbytes is imported; before that, no layer of it can exist."""
    return sys.modules.get(BITSANDBYTES) is not None


def is_4bit_loaded() -> bool:
    """Return whether 4-bit layers are available, which every supported bitsandbytes has."""
    return is_bitsandbytes_loaded()


PEFT_CHECKS: dict[str, Callable[[], bool]] = {
    "is_bnb_available": is_bitsandbytes_loaded,
    "is_bnb_4bit_available": is_4bit_loaded,
}
"""Replacements for PEFT's checks, which test on each call whether bitsandbytes is installed, and import it if so."""


def import_peft() -> None:
    """Import PEFT so that it does not import bitsandbytes before a model needs it.

    One module of PEFT, which is not used here, imports bitsandbytes if it is installed; a None in ``sys.modules`` makes
    Python treat a module as not importable. All other modules of PEFT call the two checks.
    """
    if "peft" in sys.modules:
        return
    from accelerate.utils import is_bnb_available
    from transformers.utils.import_utils import is_bitsandbytes_available

    for cached_check in (is_bitsandbytes_available, is_bnb_available):
        cached_check()
    hidden = BITSANDBYTES not in sys.modules
    if hidden:
        sys.modules[BITSANDBYTES] = None  # pyright: ignore[reportArgumentType]
    try:
        importlib.import_module("peft")
    finally:
        if hidden:
            del sys.modules[BITSANDBYTES]
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "peft"]:
        for check in PEFT_CHECKS.keys() & vars(module).keys():
            setattr(module, check, PEFT_CHECKS[check])
