"""Whether the layers that get an adapter are of the kinds and sizes it needs; an empty model will do."""

import re
from collections.abc import Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init
from sft_cli.errors import SftError
from sft_cli.model.quant import features

SPELLED = {AdapterKind.vera: "VeRA", AdapterKind.ia3: "IA3", AdapterKind.oft: "OFT"}
"""The kinds that sit on linear layers only, as their papers write them."""
FROM_WEIGHTS = (Init.pissa, Init.olora, Init.loftq, Init.eva)
"""Beginnings of LoRA that are computed from a layer's weight or inputs."""


def check_layers(layers: Mapping[str, nn.Module], config: AdapterConfig) -> None:
    """Return if these layers can carry the adapter.

    Raises:
        SftError: One is of another kind, or too small, or of a size that blocks do not divide.
    """
    if config.kind is not AdapterKind.lora:
        check_kinds_of_layers(layers, config.kind)
    if config.kind is AdapterKind.oft:
        check_blocks(layers, config.oft.block_size)
    if config.kind is AdapterKind.lora and config.init in FROM_WEIGHTS:
        check_directions(layers, config)


def check_kinds_of_layers(layers: Mapping[str, nn.Module], kind: AdapterKind) -> None:
    """A sentence for the first embedding, and under OFT the first Conv1D."""
    odd = (nn.Embedding, Conv1D) if kind is AdapterKind.oft else nn.Embedding
    for name, layer in layers.items():
        if isinstance(layer, odd):
            raise SftError(
                where=f"adapter.kind={kind.value}",
                problem=f"{SPELLED[kind]} sits on linear layers, but {name} is {type(layer).__name__}",
                fix="name linear layers in adapter.target_modules, or adapter=lora",
            )


def check_blocks(layers: Mapping[str, nn.Module], block: int) -> None:
    """A sentence for the first layer whose inputs OFT's blocks do not divide."""
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        if layer.in_features % block:
            fitting = max(size for size in range(1, block) if layer.in_features % size == 0)
            raise SftError(
                where=f"adapter.oft.block_size={block}",
                problem=f"{block} does not divide the {layer.in_features} inputs of layer {name}",
                fix=f"adapter.oft.block_size={fitting}, or name other layers in adapter.target_modules",
            )


def check_directions(layers: Mapping[str, nn.Module], config: AdapterConfig) -> None:
    """A sentence for the first layer that is no matrix, or has fewer directions than ``adapter.rank`` takes from it."""
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear | Conv1D):
            raise SftError(
                where=f"adapter.init={config.init.value}",
                problem=f"it reads the matrix of a linear layer, but {name} is an embedding",
                fix=f"take {name.rsplit('.', 1)[-1]} off adapter.target_modules, or adapter.init=default",
            )
        inputs, outputs = features(layer)
        most = inputs if config.init is Init.eva else min(inputs, outputs)
        # As PEFT reads them.
        found = [rank for pattern, rank in config.rank_pattern.items() if re.match(rf"(.*\.)?({pattern})$", name)]
        rank = found[0] if found else config.rank
        if rank > most:
            raise SftError(
                where=f"adapter.init={config.init.value}",
                problem=f"it begins with {rank} directions of layer {name}, which has {most}",
                fix=f"adapter.rank={most}, or adapter.init=default",
            )
