"""torch.compile of the decoder layers, one by one, for rows of any length."""

import shutil

import torch
from torch import nn

from sft_cli.errors import SftError
from sft_cli.model.memory.kept import decoder_layers

COMPILERS = ("c++", "g++", "clang++")
"""What torch calls on a CPU, in any of its names."""


def compile_layers(model: nn.Module, device: torch.device) -> str:
    """Compile each decoder layer's forward in place, and say so; call it behind ``checkpointing.apply``.

    Lengths are dynamic, so that the first rows compile and later ones do not. The packed attention is left out of it
    (``attention.register``): its Python loops over documents, which no two rows share.

    Raises:
        SftError: There is no C++ compiler, or nothing to compile.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise SftError(
            where="trainer.compile=true",
            problem="torch compiles for a CPU with a C++ compiler, and there is none",
            fix="trainer.compile=false, or install one: apt-get install g++",
        )
    layers = decoder_layers(model)
    if not layers:
        raise SftError(
            where="trainer.compile=true",
            problem=f"the decoder layers of {type(model).__name__} are not found",
            fix="trainer.compile=false",
        )
    for layer in layers:
        layer.compile(dynamic=True)
    return f"{len(layers)} decoder layers are compiled in the first steps"
