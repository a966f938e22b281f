"""Models with random weights, adapter and loss as training makes them, and a row of documents for them."""

import tempfile
from dataclasses import dataclass, field
from typing import Any

LLAMA = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
TRAINED = 0.5
"""Share of the tokens that carry loss."""


@dataclass(frozen=True)
class Case:
    """A model and its training settings."""

    family: str = "llama"
    shape: dict[str, Any] = field(default_factory=lambda: LLAMA)
    dtype: str = "bfloat16"
    mode: str = "none"
    adapter: str = "lora"
    quant: str = "none"
    tokens: int = 2048
    document: int = 256
    optimizer: str = "adamw"
    fused: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Settings:
    """The settings of a case, as the package takes them."""

    config: Any
    machine: Any
    adapter: Any
    quant: Any
    trainer: Any
    speed: Any
    full: bool


def settings_of(case: Case) -> Settings:
    """Return the settings of a case."""
    import torch
    from transformers import AutoConfig

    from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind, TrainStopToken
    from sft_cli.config.schema.speed import SpeedConfig
    from sft_cli.config.schema.trainer import OptimizerName, TrainerConfig
    from sft_cli.model.device import DTYPES, ComputeSetup

    return Settings(
        config=AutoConfig.for_model(case.family, **case.shape),
        machine=ComputeSetup(torch.device(case.device), DTYPES[case.dtype]),  # pyright: ignore[reportArgumentType]
        adapter=AdapterConfig(kind=AdapterKind(case.adapter), train_stop_token=TrainStopToken.never),
        quant=QuantConfig(kind=QuantKind(case.quant)),
        trainer=TrainerConfig(optimizer=OptimizerName(case.optimizer), lr=1e-4),
        speed=SpeedConfig(fused=case.fused),
        full=case.adapter == "none",
    )


def make_base(case: Case, settings: Settings) -> tuple[Any, int]:
    """Make the base model; return it and the resident bytes of the process before."""
    import psutil
    import torch
    from transformers import AutoModelForCausalLM

    from sft_cli.config.schema.config import ModelConfig
    from sft_cli.model.load import load_model

    config, machine = settings.config, settings.machine
    if case.quant == "none":
        torch.zeros(1) @ torch.zeros(1)  # allocates the memory that torch itself needs
        before = psutil.Process().memory_info().rss
        with machine.device:
            dtype = torch.float32 if settings.full else machine.dtype
            return AutoModelForCausalLM.from_config(config, dtype=dtype), before
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=machine.dtype).save_pretrained(folder)
        before = psutil.Process().memory_info().rss
        model = ModelConfig(path=folder)
        return load_model(model, settings.quant, full=False, device=machine.device, compute_dtype=machine.dtype), before


def make_trained(case: Case, settings: Settings, base: Any, plan: Any, world: Any = None) -> tuple[Any, Any, Any]:
    """Add the adapter and the speed-ups as training does, over several processes if ``world`` has them.

    Returns:
        The model, its loss model, and how the processes compute it.
    """
    from functools import partial

    from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind
    from sft_cli.distributed.process_group import World
    from sft_cli.model.adapter.add import add_adapter
    from sft_cli.model.attention.packing import use_packed_attention
    from sft_cli.model.head.loss_model import LossModel
    from sft_cli.model.memory.checkpointing import apply_checkpointing
    from sft_cli.model.speed.fused_lora import fuse_lora
    from sft_cli.model.speed.last_block import skip_unused_positions
    from sft_cli.model.speed.rms_norm import replace_rms_norms
    from sft_cli.train.parallel import parallelize

    model = add_adapter(base, settings.adapter, [], seed=0).model.train()
    sharded = DistributedConfig(kind=DistributedKind.fsdp)
    parallel = parallelize(model, sharded, world or World(), settings.machine.device)

    def add_loss() -> Any:
        use_packed_attention(model)
        if case.fused:
            replace_rms_norms(model)
            if not settings.full:
                fuse_lora(model)
        loss_model = LossModel(model, packed=True, chunk=settings.speed.logits_chunk)
        if case.fused:
            with parallel.last_layer_unsharded(model):
                skip_unused_positions(model)
        return loss_model

    with settings.machine.precision():
        loss_model = parallel.run_inference(add_loss)
    parallel.run_inference(partial(apply_checkpointing, model, plan))
    return model, loss_model, parallel


def make_row(case: Case, vocab_size: int) -> tuple[Any, ...]:
    """Return the arguments of the loss model for one row of random documents."""
    import torch

    from sft_cli.batching.packed_row import pack_row

    number = case.tokens // case.document
    trained = int(case.tokens * TRAINED)
    ids = torch.randint(vocab_size, (1, case.tokens))
    positions = torch.arange(case.document).repeat(number)[None]
    at = torch.cat([torch.arange(case.document // 2, case.document) + case.document * n for n in range(number)])
    row = pack_row([case.document] * number, None, at)
    return ids, positions, row, ids[0, (at + 1) % case.tokens], at, torch.full((trained,), 1 / trained)


def everything(model: Any) -> list[Any]:
    """Return parameters, buffers, and the quantization state of bitsandbytes."""
    found = [*model.parameters(), *model.buffers()]
    for value in model.parameters():
        state = vars(value).get("quant_state")
        if state is not None:
            found += [state.absmax, state.code]
            if state.nested:
                found += [state.state2.absmax, state.state2.code]
    return found
