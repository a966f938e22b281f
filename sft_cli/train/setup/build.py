"""Build the model for training: load it, add the adapter, probe packing, and install faster kernels."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from sft_cli.batching.bin_packing import DEFAULT_PAIR_COST, attention_pair_cost
from sft_cli.batching.step_plan import StepPlan
from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.adapter import WHOLE, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.speed import Checkpointing, Choice
from sft_cli.config.schema.trainer import Dtype
from sft_cli.console import say
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import World
from sft_cli.model.adapter.add import AdaptedModel, add_adapter
from sft_cli.model.adapter.base_weights import cast_frozen
from sft_cli.model.adapter.prompt_learning import check_vectors_take_effect
from sft_cli.model.attention.probe import ProbeResult
from sft_cli.model.config_value import config_value
from sft_cli.model.device import ComputeSetup
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.language_model import check_takes_text
from sft_cli.model.load import inner_linears, load_model
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.model.quant import causal_lm, layer_features
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.last_block import skip_unused_positions
from sft_cli.model.speed.liger import apply_liger_kernels
from sft_cli.model.speed.onednn import enable_onednn_float32
from sft_cli.model.speed.rms_norm import replace_rms_norms
from sft_cli.train.parallel import ParallelModel, loading_device, parallelize
from sft_cli.train.recompute import RecomputeOnOom

MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Dtype of computation -> its name in accelerate."""


@dataclass(frozen=True)
class TrainingModel:
    """The model for training.

    Attributes:
        loss_model: The model with its loss.
        share_prefixes: Whether common prefixes of examples may be computed once.
        recompute: The layers that the backward pass recomputes.
        pair_cost: Cost of one query-key pair, see ``bin_packing.attention_pair_cost``.
        parallel: How the processes of the run compute the model.
    """

    loss_model: LossModel
    share_prefixes: Choice
    recompute: RecomputeOnOom
    pair_cost: float
    parallel: ParallelModel


@dataclass(frozen=True)
class FirstEpochRows:
    """The training rows in the order of the first epoch, for initializations that read data."""

    split: Split
    plan: StepPlan

    def __iter__(self) -> Iterator[dict[str, Sequence[int]]]:
        """Iterate over the rows."""
        for step in range(self.plan.steps_per_epoch):
            for index in self.plan.examples(step):
                yield {"input_ids": self.split.tokens(index).input_ids.tolist()}


def make_accelerator(machine: ComputeSetup) -> Accelerator:
    """Return the accelerator with the device and the mixed precision of a run."""
    return Accelerator(cpu=machine.device.type == "cpu", mixed_precision=MIXED_PRECISION[machine.dtype])


def build_training_model(
    config: Config,
    machine: ComputeSetup,
    tokenizer: ChatTokenizer,
    stop_ids: Sequence[int],
    rows: FirstEpochRows,
    recompute: CheckpointingPlan,
    accelerator: Accelerator,
    world: World,
) -> TrainingModel:
    """Load the base, add the adapter, probe packing and shared prefixes, and print the choices.

    Args:
        config: The settings of the run.
        machine: The device and the dtype of computation.
        tokenizer: The tokenizer of the run.
        stop_ids: Tokens that end an answer.
        rows: The training rows, for initializations that read data.
        recompute: The layers that the backward pass recomputes.
        accelerator: The device and the mixed precision.
        world: The processes of the run.
    """
    if machine.device.type == "cpu":
        enable_onednn_float32()
    report = load_adapted_model(config, machine, tokenizer, stop_ids, rows)
    model = report.model
    pair_cost = _pair_cost(causal_lm(model))
    parallel = parallelize(model, config.distributed, world, machine.device)
    if world.is_distributed:
        say(f"parallel  {parallel.describe(model)}")
    with accelerator.autocast():
        loss_model, share_prefixes = parallel.run_inference(partial(_add_loss, config, model, parallel))
    # Through FSDP's root, like every access to the layers.
    parallel.run_inference(partial(apply_checkpointing, model, recompute))
    allowed = (
        config.speed.gradient_checkpointing is Checkpointing.auto and config.adapter.kind is not AdapterKind.prefix
    )
    return TrainingModel(
        loss_model, share_prefixes, RecomputeOnOom(model, recompute, allowed=allowed), pair_cost, parallel
    )


def _add_loss(config: Config, model: nn.Module, parallel: ParallelModel) -> tuple[LossModel, Choice]:
    """Add the loss and the faster kernels to the model.

    Returns:
        The model with its loss, and whether examples may share prefixes.
    """
    speed = config.speed
    check_takes_text(causal_lm(model), f"model.path={config.model.path}")
    loss_model, probed = build_loss_model(
        model,
        speed.logits_chunk,
        config.loss,
        speed.share_prefixes,
        packing=speed.packing,
        row_tokens=resolved(speed.tokens_per_micro_batch),
        longest=config.trainer.max_length,
    )
    share_prefixes = _choose_sharing(config, probed)
    if loss_model.reference is not None:
        say(f"kl        {loss_model.reference.describe()}")
    if speed.fused:
        replace_rms_norms(model)
        if config.adapter.kind is AdapterKind.lora:
            say(f"fused     {fuse_lora(model)}")
        if probed.packed_ok:
            with parallel.last_layer_unsharded(model):  # the probe calls modules of the last layer directly
                skip_unused_positions(model)
    return loss_model, share_prefixes


def _pair_cost(lm: PreTrainedModel) -> float:
    """Return the cost of one query-key pair in this model, see ``bin_packing.attention_pair_cost``."""
    width, layers = (config_value(lm.config, name) for name in ("hidden_size", "num_hidden_layers"))
    parameters = sum(math.prod(layer_features(layer)) for layer in inner_linears(lm).values())
    return attention_pair_cost(width, layers, parameters) if parameters and width and layers else DEFAULT_PAIR_COST


def load_adapted_model(
    config: Config,
    machine: ComputeSetup,
    tokenizer: ChatTokenizer,
    stop_ids: Sequence[int],
    rows: Iterable[Mapping[str, Sequence[int]]],
) -> AdaptedModel:
    """Load the base model and add the adapter, or mark the weights to train, and print the number of parameters.

    Args:
        config: The settings of the run.
        machine: The device and the dtype of computation.
        tokenizer: The tokenizer of the run.
        stop_ids: Tokens that end an answer.
        rows: The training rows, for initializations that read data.
    """
    new = added_ids(tokenizer, config.model.add_tokens)
    full = config.adapter.kind in WHOLE
    base = load_model(
        config.model,
        config.quant,
        full=full,
        device=loading_device(config, machine.device),
        compute_dtype=machine.dtype,
        added_ids=new,
    )
    if (kernels := apply_liger_kernels(base, config.speed.kernels, machine.device)) is not None:
        say(f"kernels   {kernels}")
    text = config.adapter.virtual.text
    report = add_adapter(
        base,
        config.adapter,
        stop_ids,
        seed=config.trainer.seed,
        rows=rows,
        source=config.model,
        added_ids=new,
        text_ids=() if text is None else tokenizer.encode_batch([text])[0],
    )
    if isinstance(report.model, PreTrainedModel):
        if config.model.dtype is Dtype.auto:
            cast_frozen(report.model, machine.dtype)
    else:
        check_vectors_take_effect(report.model)
    say(f"adapter   {report.trainable:,} of {report.total:,} parameters are trained")
    if report.stop_tokens:
        say(f"stop      the embedding of stop token {list(report.stop_tokens)} is trained too (it looked untrained)")
    for note in report.notes:
        say(f"          {note}")
    return report


def _choose_sharing(config: Config, probed: ProbeResult) -> Choice:
    """Decide whether common prefixes are computed once, and print the result of the packing probe."""
    if not probed.packed_ok:
        say(f"packing   off, one example per row: {probed.reason}")
        return Choice.never
    say(f"packing   verified: packed and unpacked logits agree ({probed.difference:.1e})")
    requested = config.speed.share_prefixes
    # Examples that share tokens would also share noise that must be drawn for each example.
    noisy = config.adapter.dropout > 0 or config.loss.neftune > 0
    reason = "dropout and noise are drawn for each example" if noisy else probed.reason if not probed.shared_ok else ""
    if requested is not Choice.never and reason:
        say(f"prefixes  not shared: {reason}")
    return Choice.never if reason else requested
