"""A small random model of the run's architecture, with the run's own adapter, storage, loss and optimizer.

Everything runs in float32 on the CPU, without dropout, noise and the balancing loss of routers, which depend on the
layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from sft_cli.batching.prefetch import Prefetcher, replayed_sources
from sft_cli.batching.step_plan import make_step_plan
from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.check.torch_checks.shrink_config import WIDTH, shrink_config
from sft_cli.config.schema.adapter import FOUR_BITS, WHOLE, AdapterConfig, AdapterKind, Init, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Dtype, OptimizerName
from sft_cli.data.prepared import PreparedData
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_default_attention
from sft_cli.model.attention.probe import ProbeResult
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.language_model import auto_class
from sft_cli.model.load import load_model
from sft_cli.model.prequantized import bitsandbytes_kind, stored_quantization
from sft_cli.model.speed.fused_lora import fuse_lora, unfuse_lora
from sft_cli.model.speed.last_block import restore_all_positions, skip_unused_positions
from sft_cli.model.speed.rms_norm import replace_rms_norms, restore_rms_norms
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.step import batch_kwargs

CPU = torch.device("cpu")
TOKENS = 2048
"""Most tokens of the step: examples of the run's first step up to this number, at least two."""
NOISE = 0.02
"""Standard deviation given to trained tensors that start at zero, so that all gradients are nonzero."""


@dataclass(frozen=True)
class TinyModel:
    """The small model and its settings.

    Attributes:
        config: The run's settings, adapted to the small model.
        model: The model with its adapter.
        loss_model: The model with its loss, packed if packing is proven exact.
        probed: Result of the packing probe.
        notes: Differences from the run's settings, in clauses.
    """

    config: Config
    model: nn.Module
    loss_model: LossModel
    probed: ProbeResult
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StepGradient:
    """A step's loss in nats, flattened gradient of all trained parameters, micro-batches and computed tokens."""

    loss: float
    values: torch.Tensor = field(repr=False)
    batches: int
    tokens: int


def make_tiny_model(
    config: Config, architecture: PretrainedConfig, prepared: PreparedData, directory: Path
) -> TinyModel:
    """Create the small model, save it, and load it the way a run loads its own.

    Args:
        config: The config of the run.
        architecture: The configuration of the model.
        prepared: Prepared data, with tokenizer and stop tokens.
        directory: An empty directory for the small model's files.

    Raises:
        SftError: The adapter or the storage does not suit the architecture.
    """
    settings, notes = tiny_settings(config, architecture, directory)
    disable_progress_bar()
    torch.manual_seed(config.trainer.seed)
    random_model = auto_class(architecture).from_config(
        shrink_config(architecture), trust_remote_code=config.model.trust_remote_code, dtype=torch.float32
    )
    random_model.save_pretrained(directory)
    tokenizer = load_tokenizer(str(prepared.tokenizer_directory))
    new = added_ids(tokenizer, config.model.add_tokens)
    base = load_model(
        settings.model,
        settings.quant,
        full=settings.adapter.kind in WHOLE,
        device=CPU,
        compute_dtype=torch.float32,
        added_ids=new,
    )
    stops = [tokenizer.control_tokens[name] for name in prepared.manifest["stop_tokens"]]
    text = settings.adapter.virtual.text
    examples = pick_examples(settings, prepared)
    model = add_adapter(
        base,
        settings.adapter,
        stops,
        seed=settings.trainer.seed,
        rows=[{"input_ids": prepared.train.tokens(index).input_ids.tolist()} for index in examples],
        source=settings.model,
        added_ids=new,
        text_ids=() if text is None else tokenizer.encode_batch([text])[0],
    ).model
    _randomize_zeros(model, settings.trainer.seed)
    speed = settings.speed
    loss_model, probed = build_loss_model(
        model,
        speed.logits_chunk,
        settings.loss,
        speed.share_prefixes,
        packing=speed.packing,
        longest=settings.trainer.max_length,
    )
    if speed.fused:
        _fuse(model, settings.adapter.kind, packed=probed.packed_ok)
    return TinyModel(settings, model, loss_model, probed, tuple(notes))


def _fuse(model: nn.Module, kind: AdapterKind, *, packed: bool) -> None:
    """Fuse the layers as a run does."""
    replace_rms_norms(model)
    if kind is AdapterKind.lora:
        fuse_lora(model)
    if packed:
        skip_unused_positions(model)


def tiny_settings(config: Config, architecture: PretrainedConfig, directory: Path) -> tuple[Config, list[str]]:
    """Return the run's settings for the small model on a CPU, and the differences, in clauses."""
    notes, adapter, loss, quant = list[str](), config.adapter, config.loss, config.quant
    if adapter.dropout or loss.neftune:
        notes.append("without dropout and noise, which depend on the layout")
    loss = replace(loss, neftune=0.0, router=0.0)
    kind = bitsandbytes_kind(architecture, quant)
    if kind in (*FOUR_BITS, QuantKind.int8):
        quant = replace(quant, kind=kind)
    elif stored_quantization(architecture) is not None:
        notes.append("unquantized")
    optimizer = config.trainer.optimizer
    if optimizer is OptimizerName.paged_adamw_8bit:
        notes.append("with adamw_8bit: paged state needs CUDA")
        optimizer = OptimizerName.adamw_8bit
    adapter = replace(_fit_adapter(adapter, notes), dropout=0.0)
    trainer = replace(config.trainer, optimizer=optimizer, lr_factors={}, dtype=Dtype.float32)
    model = replace(config.model, path=str(directory), revision=None, dtype=Dtype.float32)
    return replace(config, model=model, adapter=adapter, loss=loss, quant=quant, trainer=trainer), notes


def _fit_adapter(adapter: AdapterConfig, notes: list[str]) -> AdapterConfig:
    """Return the adapter without settings that depend on layer numbers or on sizes of the full model."""
    if adapter.start_from is not None or adapter.frozen_adapters:
        notes.append("without the initial adapters")
        adapter = replace(adapter, start_from=None, frozen_adapters=[])
    if adapter.init is not Init.default and adapter.rank > WIDTH // 2:
        notes.append(f"with rank {WIDTH // 2}")
        adapter = replace(adapter, rank=WIDTH // 2)
    numbered = [*adapter.rank_pattern, *adapter.alpha_pattern, *adapter.train, *adapter.freeze]
    if any(character.isdigit() for text in numbered for character in text):
        notes.append("without patterns that number layers")
        adapter = replace(adapter, rank_pattern={}, alpha_pattern={}, train=[], freeze=[])
    return adapter


def _randomize_zeros(model: nn.Module, seed: int) -> None:
    """Give trained tensors that are zero small values: LoRA's A has no gradient while B is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad and not value.any():
                value.normal_(0.0, NOISE, generator=generator)


def pick_examples(config: Config, prepared: PreparedData) -> list[int]:
    """Return examples of the run's first step, up to ``TOKENS`` tokens; at least two, if there are two."""
    trainer = config.trainer
    steps = make_step_plan(
        prepared.stages, resolved(trainer.examples_per_step), 1, 1, trainer.seed, prepared.train.unrolled()
    )
    picked, tokens = list[int](), 0
    for index in steps.examples(0):
        length = int(prepared.train.lengths[index])
        if len(picked) >= 2 and tokens + length > TOKENS:
            break
        picked.append(index)
        tokens += length
    return picked


def step_gradient(
    small: TinyModel, loss_model: LossModel, prepared: PreparedData, examples: Sequence[int], budget: int
) -> StepGradient:
    """Return the loss and gradient of the step with a given layout.

    Args:
        small: The small model.
        loss_model: The model with its loss, packed or not.
        prepared: The prepared data.
        examples: Examples of the step.
        budget: Most tokens of a micro-batch; 0 puts each example into its own.
    """
    config = small.config
    unshared = config.speed.share_prefixes is Choice.never or not small.loss_model.shares_prefixes
    with Prefetcher(
        prepared.train,
        lambda _: examples,
        0,
        1,
        reduction=config.loss.reduction,
        max_tokens=budget,
        packed=loss_model.packed and budget > 0,
        share_prefixes=Choice.never if unshared or not loss_model.packed else config.speed.share_prefixes,
        replay_weight=config.loss.replay,
        replay_sources=replayed_sources(config.data.mix),
        device=CPU,
    ) as feed:
        step = feed.get(0)
    loss_model.zero_grad()
    loss = 0.0
    for batch in step.batches:
        objective = loss_model(**batch_kwargs(batch))["loss"]
        objective.backward()
        loss += objective.item()
    values = [value.grad for value in loss_model.parameters() if value.requires_grad and value.grad is not None]
    return StepGradient(loss, torch.cat([value.flatten() for value in values]), len(step.batches), step.computed_tokens)


def as_plain_transformers(small: TinyModel) -> LossModel:
    """Return the model as transformers and PEFT compute it, unpacked.

    The fused and packed forms are removed from ``small`` in place.
    """
    restore_all_positions(small.model)
    unfuse_lora(small.model)
    restore_rms_norms(small.model)
    use_default_attention(small.model)
    return LossModel(
        small.model,
        packed=False,
        chunk=small.config.speed.logits_chunk,
        path=small.loss_model.path,
        loss=small.config.loss,
    )


def optimizer_step(small: TinyModel) -> float:
    """Take one optimizer step with the current gradients, and return the largest change of a trained parameter."""
    trainer = small.config.trainer
    optimizer = make_optimizer(small.loss_model, trainer, small.config.adapter)
    trained = [value for value in small.loss_model.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in trained]
    if trainer.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trained, trainer.max_grad_norm)
    optimizer.step()
    moved = [(value.detach() - old).abs().max() for value, old in zip(trained, before, strict=True)]
    return torch.stack(moved).max().item()
