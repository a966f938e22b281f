"""Check the types and sizes of the adapted layers; a model on the meta device is enough."""

import re
from collections.abc import Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import ALL_LINEAR, AdapterConfig, AdapterKind, Init
from sft_cli.errors import SftError
from sft_cli.model.quant import layer_features

DISPLAY_NAMES = {AdapterKind.vera: "VeRA", AdapterKind.ia3: "IA3", AdapterKind.oft: "OFT"}
"""Names, as in the papers, of the kinds that support only linear layers."""
COMPUTED_INITS = (Init.pissa, Init.olora, Init.loftq, Init.eva)
"""Initializations of LoRA that are computed from a layer's weight or inputs."""


def check_layers(layers: Mapping[str, nn.Module], config: AdapterConfig) -> None:
    """Check that these layers support the adapter.

    Raises:
        SftError: A layer has another type, is too small, or its size is not a multiple of the block size.
    """
    if config.kind is not AdapterKind.lora:
        check_layer_types(layers, config.kind)
    if config.kind is AdapterKind.oft:
        check_oft_blocks(layers, config.oft.block_size)
    if config.kind is AdapterKind.lora and config.init in COMPUTED_INITS:
        check_init_rank(layers, config)


def check_layer_types(layers: Mapping[str, nn.Module], kind: AdapterKind) -> None:
    """Refuse the first embedding and, for OFT, the first Conv1D."""
    unsupported = (nn.Embedding, Conv1D) if kind is AdapterKind.oft else nn.Embedding
    for name, layer in layers.items():
        if isinstance(layer, unsupported):
            raise SftError(
                where=f"adapter.kind={kind.value}",
                problem=f"{DISPLAY_NAMES[kind]} supports linear layers only, but {name} is {type(layer).__name__}",
                fix=f"adapter.target_modules=[{ALL_LINEAR}], or adapter=lora",
            )


def check_oft_blocks(layers: Mapping[str, nn.Module], block_size: int) -> None:
    """Refuse the first layer whose number of inputs is not a multiple of OFT's block size."""
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        if layer.in_features % block_size:
            fitting = max(size for size in range(1, block_size) if layer.in_features % size == 0)
            raise SftError(
                where=f"adapter.oft.block_size={block_size}",
                problem=f"{block_size} does not divide the {layer.in_features} inputs of layer {name}",
                fix=f"adapter.oft.block_size={fitting}, or adapter.target_modules=[{ALL_LINEAR}]",
            )


def check_init_rank(layers: Mapping[str, nn.Module], config: AdapterConfig) -> None:
    """Refuse the first layer that is not a matrix, or has fewer singular directions than ``adapter.rank`` needs."""
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear | Conv1D):
            raise SftError(
                where=f"adapter.init={config.init.value}",
                problem=f"it reads the matrix of a linear layer, but {name} is an embedding",
                fix=f"adapter.init=default, or remove {name.rsplit('.', 1)[-1]} from adapter.target_modules",
            )
        inputs, outputs = layer_features(layer)
        max_rank = inputs if config.init is Init.eva else min(inputs, outputs)
        # PEFT matches the patterns in this way.
        ranks = [rank for pattern, rank in config.rank_pattern.items() if re.match(rf"(.*\.)?({pattern})$", name)]
        rank = ranks[0] if ranks else config.rank
        if rank > max_rank:
            raise SftError(
                where=f"adapter.init={config.init.value}",
                problem=f"it needs {rank} singular directions of layer {name}, which has {max_rank}",
                fix=f"adapter.rank={max_rank}, or adapter.init=default",
            )
