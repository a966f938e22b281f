"""Write the run's model with its tokenizer, settings and card: merged, or as trained by a full fine-tuning."""

import shutil
from pathlib import Path
from typing import Any

import torch

from sft_cli.console import say
from sft_cli.export.record import write_record
from sft_cli.export.request import ExportRequest, require_space
from sft_cli.export.staging import new_directory
from sft_cli.merge.card import write_card
from sft_cli.merge.merge import build_merged
from sft_cli.merge.plan import count_weights, make_merge_plan
from sft_cli.model.export_files import first_tensor_dtype, stored_dtype
from sft_cli.model.language_model import auto_class
from sft_cli.model.load import load_model_config

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")


def export_merged(request: ExportRequest) -> None:
    """Write the model to ``request.out``.

    Raises:
        SftError: It does not fit on the disk or the device, or differs from the adapter.
    """
    dtype = model_dtype(request)
    needed = count_weights(request.config.model) * TORCH_DTYPES[dtype].itemsize
    require_space(f"model in {dtype}", needed, request.out)
    with new_directory(request.out) as directory:
        build_model(request, directory, dtype)
        write_record(directory, request.run, request.config, request.target, dtype)
    say(f"exported  {request.out} (model in {dtype})")


def model_dtype(request: ExportRequest) -> str:
    """Return the dtype of the exported model: as asked, else that of the trained model or of the base."""
    if request.dtype in TORCH_DTYPES:
        return request.dtype
    if request.is_whole:
        stored = first_tensor_dtype(str(request.run.result), None)
        return str(stored).removeprefix("torch.")
    if request.into == "dequantized":
        return request.run.read_json(request.run.environment)["dtype"]
    return str(stored_dtype(request.config.model)).removeprefix("torch.")


def build_model(request: ExportRequest, directory: Path, dtype: str) -> None:
    """Fill an empty directory with the run's model in ``dtype``."""
    directory.rmdir()
    if request.is_whole:
        _convert_trained(request, directory, TORCH_DTYPES[dtype])
        return
    plan = make_merge_plan(request.run, request.config, request.into, TORCH_DTYPES[dtype], request.shard_size)
    build_merged(plan, request.config, directory, out=request.out, max_kl=None)


def _convert_trained(request: ExportRequest, directory: Path, dtype: torch.dtype) -> None:
    """Copy the model of a full fine-tuning, with its weights in ``dtype`` and files of the chosen size."""
    source = request.run.result
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(*WEIGHT_FILES))
    remote_code = request.config.model.trust_remote_code
    classes: Any = auto_class(load_model_config(request.config.model))
    model = classes.from_pretrained(source, dtype=dtype, trust_remote_code=remote_code)
    model.save_pretrained(directory, max_shard_size=request.shard_size)
    write_card(request.run, request.config, directory)
