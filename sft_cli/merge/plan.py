"""The settings of a merge, resolved from the run, and the space that it needs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.adapter import QuantConfig
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.trainer import Dtype
from sft_cli.console import gib
from sft_cli.errors import SftError
from sft_cli.model import export_files
from sft_cli.model.device import DTYPES, choose_device
from sft_cli.model.load import empty_model, load_model_config
from sft_cli.run_dir import RunDir
from sft_cli.utils.disks import free_bytes

SHARD_SIZE = "5GB"
"""Largest size of a weight file."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The settings of a merge.

    Attributes:
        run: The run with the adapter.
        model: Its base.
        quant: Storage of the base in training.
        into: ``original`` or ``dequantized``.
        device: The device of the merge.
        trained_dtype: The compute dtype of the run.
        dtype: Dtype of the merged weights (see ``make_merge_plan``).
        sum_dtype: Dtype in which the adapter is added: ``dtype``, or float32 if it is not that of the base.
        shard_size: Largest size of a weight file, such as ``5GB``.
        added_ids: Ids of the tokens that the run added.
    """

    run: RunDir
    model: ModelConfig
    quant: QuantConfig
    into: str
    device: torch.device
    trained_dtype: torch.dtype
    dtype: torch.dtype
    sum_dtype: torch.dtype
    shard_size: str
    added_ids: tuple[int, ...] = ()


def make_merge_plan(
    run: RunDir, config: Config, into: str, dtype: torch.dtype | None = None, shard_size: str = SHARD_SIZE
) -> MergePlan:
    """Resolve the device and the dtypes of the merge.

    Args:
        run: A finished run with an adapter.
        config: Its config.
        into: ``original`` or ``dequantized``.
        dtype: Dtype of the merged weights; None means that of the base, or (dequantized) the run's compute dtype.
        shard_size: Largest size of a weight file.
    """
    trained = DTYPES[Dtype(run.read_json(run.environment)["dtype"])]
    stored = trained if into == "dequantized" else export_files.stored_dtype(config.model)
    asked = stored if dtype is None else dtype
    added_in = stored if asked == stored else torch.float32
    new_ids = added_ids(load_tokenizer(str(run.adapter)), config.model.add_tokens)
    device = choose_device(config.trainer.device)
    return MergePlan(
        run, config.model, config.quant, into, device, trained, asked, added_in, shard_size, tuple(new_ids)
    )


def count_weights(model: ModelConfig) -> int:
    """Return the number of weights of a base, tied ones once."""
    empty = empty_model(load_model_config(model), model.trust_remote_code)
    empty.tie_weights()
    return sum(parameter.numel() for parameter in empty.parameters())


def check_disk_space(plan: MergePlan, out: Path) -> None:
    """Refuse a disk without space for the merged weights."""
    needed = count_weights(plan.model) * plan.dtype.itemsize
    free = free_bytes(out.parent)
    if needed > free:
        raise SftError(
            where=f"--out {out}",
            problem=f"the merged model needs {gib(needed)}, the disk has {gib(free)} free",
            fix="--out DIR on another disk",
        )
