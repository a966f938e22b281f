"""Check, without torch, that a model directory contains readable weights, before anything is prepared."""

import shlex
from pathlib import Path

from sft_cli.config import paths
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONVERT = "convert them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"


def require_weights(model: ModelConfig) -> None:
    """Check that the model is a hub id, or a directory with safetensors weights; pickled weights are never read.

    Raises:
        SftError: The directory has no safetensors weights.
    """
    directory = Path(paths.resolve(model.path or ""))
    if not (directory / "config.json").is_file() or any(directory.glob("*.safetensors")):
        return
    if (directory / "model.safetensors.index.json").is_file():
        return  # loading checks each part by name
    if any(file for pattern in PICKLED for file in directory.glob(pattern)):
        problem, fix = "the directory holds no safetensors weights, and pickled weights are not read", CONVERT
    else:
        problem = "the directory holds a config.json, but no weights"
        fix = f"copy *.safetensors there, or name a directory that has them: ls {shlex.quote(str(directory.parent))}"
    raise SftError(where=f"model.path={model.path}", problem=problem, fix=fix)
