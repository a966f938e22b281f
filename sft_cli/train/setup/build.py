"""The model as it trains: loaded, adapted, proven packable, and made fast."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from sft_cli.batching.bin_packing import PAIRS, pair_cost
from sft_cli.batching.step_plan import Plan
from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.adapter import WHOLE, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing, Choice
from sft_cli.config.schema.trainer import Dtype
from sft_cli.console import say
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import Ranks
from sft_cli.model.adapter.add import AdaptedModel, add_adapter
from sft_cli.model.adapter.base_weights import cast_frozen
from sft_cli.model.adapter.prompt_learning import check_vectors_take_effect
from sft_cli.model.attention.probe import ProbeResult
from sft_cli.model.device import ComputeSetup
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.load import inner_linears, load_model
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.model.quant import causal_lm, layer_features
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.last_block import skip_unused_positions
from sft_cli.model.speed.liger import apply_liger_kernels
from sft_cli.model.speed.onednn import enable_onednn_float32
from sft_cli.model.speed.rms_norm import replace_rms_norms
from sft_cli.train.parallel import Engine, loading_device, make_engine
from sft_cli.train.step import Relief


@dataclass(frozen=True)
class Built:
    """What training computes with.

    Attributes:
        loss_model: The model with its loss.
        share: Whether common beginnings of examples may be computed once.
        relief: What is recomputed in the backward pass.
        pairs: What a query seeing a key costs, see ``placement.pair_cost``.
        engine: How the processes of the run compute the model.
    """

    loss_model: LossModel
    share: Choice
    relief: Relief
    pairs: float
    engine: Engine


@dataclass(frozen=True)
class Rows:
    """The training rows in the order of the first epoch, as initialisations that read data take them."""

    split: Split
    plan: Plan

    def __iter__(self) -> Iterator[dict[str, Sequence[int]]]:
        """Row after row."""
        for step in range(self.plan.steps_per_epoch):
            for index in self.plan.examples(step):
                yield {"input_ids": self.split.tokens(index).input_ids.tolist()}


def build_model(
    config: Config,
    machine: ComputeSetup,
    tokenizer: ChatTokenizer,
    stop_ids: Sequence[int],
    rows: Rows,
    recompute: CheckpointingPlan,
    accelerator: Accelerator,
    ranks: Ranks,
) -> Built:
    """Load and adapt the base, prove what may be computed together, and say what was chosen."""
    if machine.device.type == "cpu":
        enable_onednn_float32()
    report = adapted(config, machine, tokenizer, stop_ids, rows)
    model = report.model
    pairs = _pairs(causal_lm(model))
    engine = make_engine(model, config.distributed, ranks, machine.device)
    if ranks.several:
        say(f"together  {engine.sentence(model)}")
    with accelerator.autocast():
        loss_model, share = engine.look(partial(_computed, config, model, engine))
    engine.look(partial(apply_checkpointing, model, recompute))  # the layers lie where the gathered weights do
    more = config.speed.gradient_checkpointing is Checkpointing.auto and config.adapter.kind is not AdapterKind.prefix
    return Built(loss_model, share, Relief(model, recompute, allowed=more), pairs, engine)


def _computed(config: Config, model: nn.Module, engine: Engine) -> tuple[LossModel, Choice]:
    """The model with its loss and everything that makes it fast, each proven; what examples may share."""
    speed = config.speed
    loss_model, probed = build_loss_model(
        model, speed.logits_chunk, config.loss, speed.share_prefixes, packing=speed.packing
    )
    share = _share(config, probed)
    if loss_model.reference is not None:
        say(f"kl        {loss_model.reference.sentence()}")
    if speed.fused:
        replace_rms_norms(model)
        if config.adapter.kind is AdapterKind.lora:
            say(f"fused     {fuse_lora(model)}")
        if probed.packed_ok:
            with engine.opened(model):  # what it proves, it proves of single modules of the last layer
                skip_unused_positions(model)
    return loss_model, share


def _pairs(lm: PreTrainedModel) -> float:
    """What a query seeing a key costs in this model, see ``placement.pair_cost``."""
    text = lm.config.get_text_config()
    parameters = sum(math.prod(layer_features(layer)) for layer in inner_linears(lm).values())
    return pair_cost(text.hidden_size, text.num_hidden_layers, parameters) if parameters else PAIRS


def adapted(
    config: Config,
    machine: ComputeSetup,
    tokenizer: ChatTokenizer,
    stop_ids: Sequence[int],
    rows: Iterable[Mapping[str, Sequence[int]]],
) -> AdaptedModel:
    """The base with what is trained of it or on it."""
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


def _share(config: Config, probed: ProbeResult) -> Choice:
    """Whether common beginnings may be computed once; says what the probe found."""
    if not probed.packed_ok:
        say(f"packing   off, one example per row: {probed.reason}")
        return Choice.never
    say(f"packing   verified: packed and unpacked logits agree ({probed.difference:.1e})")
    wanted = config.speed.share_prefixes
    # Shared tokens would share the noise that each example draws for itself.
    noisy = config.adapter.dropout > 0 or config.loss.neftune > 0
    reason = "dropout and noise are each example's own" if noisy else probed.reason if not probed.shared_ok else ""
    if wanted is not Choice.never and reason:
        say(f"prefixes  not shared: {reason}")
    return Choice.never if reason else wanted
