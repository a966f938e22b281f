"""Bytes of frozen weights by how they are stored."""

from sft_cli.config.schema.adapter import QuantConfig, QuantKind

FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Four bits and a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""


def inner_bytes(quant: QuantConfig, width: int) -> float:
    """Bytes per parameter of a frozen linear layer."""
    if quant.kind in (QuantKind.nf4, QuantKind.fp4):
        return FOUR_BIT_DOUBLE_BYTES if quant.double_quant else FOUR_BIT_BYTES
    return 1.0 if quant.kind is QuantKind.int8 else float(width)
