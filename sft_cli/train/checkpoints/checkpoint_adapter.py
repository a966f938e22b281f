"""The adapter inside a checkpoint, in PEFT's own files, so that ``PeftModel.from_pretrained`` opens the checkpoint."""

from contextlib import nullcontext
from pathlib import Path

from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor

from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.train.optimizers.param_groups import trained_parameters
from sft_cli.train.optimizers.weight_average import WeightAverage

FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_adapter(model: nn.Module, average: WeightAverage | None, directory: Path) -> list[str]:
    """Write the adapter, with the averaged weights if there are any, and return the names of its files.

    Return no files for a model without an adapter, and under FSDP, where no process has all of it: ``--step N`` exports
    such a step.
    """
    adapted = next((module for module in model.modules() if isinstance(module, PeftModel)), None)
    if adapted is None or any(isinstance(parameter, DTensor) for _, parameter in trained_parameters(model)):
        return []
    with nullcontext() if average is None or not average.steps else average.swapped_in(model):
        save_adapter(adapted, directory)
    return [name for name in FILES if (directory / name).is_file()]
