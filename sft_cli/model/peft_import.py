"""PEFT without bitsandbytes: importing it costs seconds that only quantised models need."""

import importlib
import sys
from collections.abc import Callable

NAME = "bitsandbytes"


def bitsandbytes_loaded() -> bool:
    """Whether a model of this process can have bitsandbytes layers: none can be made without importing it."""
    return sys.modules.get(NAME) is not None


def four_bit_loaded() -> bool:
    """The same for 4-bit layers, which every supported bitsandbytes has."""
    return bitsandbytes_loaded()


ANSWERS: dict[str, Callable[[], bool]] = {
    "is_bnb_available": bitsandbytes_loaded,
    "is_bnb_4bit_available": four_bit_loaded,
}
"""PEFT's two questions. It asks at each use whether bitsandbytes is installed, and imports it if so."""


def import_peft() -> None:
    """Import PEFT so that it leaves bitsandbytes alone until a model was loaded with it.

    One helper of PEFT, which nothing here uses, imports bitsandbytes where it is installed; a None in ``sys.modules``
    is Python's way to say that a module cannot be imported. All other places ask the two functions above.
    """
    if "peft" in sys.modules:
        return
    from accelerate.utils import is_bnb_available
    from transformers.utils.import_utils import is_bitsandbytes_available

    for remembers_its_answer in (is_bitsandbytes_available, is_bnb_available):
        remembers_its_answer()
    hidden = NAME not in sys.modules
    if hidden:
        sys.modules[NAME] = None  # pyright: ignore[reportArgumentType]
    try:
        importlib.import_module("peft")
    finally:
        if hidden:
            del sys.modules[NAME]
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "peft"]:
        for question in ANSWERS.keys() & vars(module).keys():
            setattr(module, question, ANSWERS[question])
