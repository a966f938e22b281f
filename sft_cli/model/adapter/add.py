"""What is trained on a base: an adapter of PEFT, or some of the base's own weights. One place that knows every kind."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import VIRTUAL, WHOLE, AdapterConfig, AdapterKind, Init
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter import base_weights, lora_inits, prompt_learning
from sft_cli.model.adapter.peft_configs import KINDS
from sft_cli.model.adapter.stacking import put_beneath, subtract_beginning
from sft_cli.model.adapter.stop_token_rows import check_rows, stop_rows
from sft_cli.model.adapter.targets import check_adapter, untouched
from sft_cli.model.adapter.warm_start import beginnings, start_from
from sft_cli.model.language_model import sentence
from sft_cli.model.quant import causal_lm


@dataclass(frozen=True)
class AdapterReport:
    """A model with an adapter, and what of it is trained.

    Attributes:
        model: The base, frozen, with the adapter in float32 whatever the base is stored in; or the base itself, when
            its own weights are trained.
        stop_rows: Token ids whose embedding rows are trained beside the adapter.
        trainable: Number of trained parameters.
        total: Number of all parameters, quantised ones counted as stored.
        notes: Lines for the log.
    """

    model: PeftModel | PreTrainedModel
    stop_rows: tuple[int, ...]
    trainable: int
    total: int
    notes: tuple[str, ...] = ()


def add_adapter(
    model: PreTrainedModel,
    config: AdapterConfig,
    stop_ids: Sequence[int],
    *,
    seed: int,
    rows: Iterable[Mapping[str, Sequence[int]]] = (),
    source: ModelConfig | None = None,
    added_ids: Sequence[int] = (),
    text_ids: Sequence[int] = (),
) -> AdapterReport:
    """Freeze ``model`` and put an adapter on it, or select the weights that are trained; in place.

    Args:
        model: The base.
        config: What is trained.
        stop_ids: Tokens that end an answer.
        seed: Decides the initial matrices; torch's own generators are left alone.
        rows: Training rows with ``input_ids``, in the order of the seed; only ``init: eva`` reads them.
        source: Where the base's weights lie; only ``init: loftq`` reads them again.
        added_ids: Tokens that were added to the vocabulary; their embedding rows are trained beside the adapter.
        text_ids: Tokens of ``adapter.virtual.text``; only kinds ``prefix`` and ``prompt`` read them.

    Raises:
        SftError: The base cannot carry it.
    """
    beside = () if (line := sentence(model)) is None else (line,)
    if config.kind in WHOLE:
        base_weights.select(model, config)
        return report(model, (), beside)
    check_adapter(model, config)
    stops = stop_rows(model, config, stop_ids)
    trained = sorted({*stops, *added_ids})
    check_rows(model, config, trained)
    notes = (*beside, *untouched(model, config))
    described = KINDS[config.kind](model, config, trained, seed)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), peft_quietly():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, described)
        assert isinstance(adapted, PeftModel)
        whole_modules_in_float32(adapted)
        if config.kind in VIRTUAL:
            prompt_learning.in_float32(adapted)
        found = beginnings(config)
        if config.start_from is not None:
            start_from(adapted, found["adapter.start_from"])
        else:
            begin(adapted, config, seed, rows, source, text_ids)
        for number in range(len(config.frozen_adapters)):
            put_beneath(adapted, number, found[f"adapter.frozen_adapters.{number}"])
    return report(adapted, tuple(stops), notes)


def report(model: PeftModel | PreTrainedModel, stops: tuple[int, ...], notes: tuple[str, ...]) -> AdapterReport:
    """The model with the numbers of its parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trainable = sum(size for size, trained in sizes if trained)
    return AdapterReport(model, stops, trainable, sum(size for size, _ in sizes), notes)


def begin(
    model: PeftModel,
    config: AdapterConfig,
    seed: int,
    rows: Iterable[Mapping[str, Sequence[int]]],
    source: ModelConfig | None,
    text_ids: Sequence[int],
) -> None:
    """Set the first values where they come from the base, the data or a text; an empty model (``meta``) has none."""
    if causal_lm(model).device.type == "meta":
        return
    if config.kind in VIRTUAL:
        prompt_learning.begin(model, config.kind, seed, text_ids)
    if config.kind is not AdapterKind.lora:
        return
    if config.init in (Init.pissa, Init.olora):
        lora_inits.cut_out(model, config.init, seed)
        subtract_beginning(model)
    elif config.init is Init.loftq:
        assert source is not None, "loftq reads the original weights"
        lora_inits.loftq(model, source, seed)
    elif config.init is Init.eva:
        lora_inits.eva(model, rows)


def whole_modules_in_float32(model: PeftModel) -> None:
    """Keep what ``modules_to_save`` trains in float32, as PEFT does with adapters."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()


def open_adapter(base: PreTrainedModel, directory: Path, device: torch.device) -> PeftModel:
    """The base with a saved adapter on it, in place: every tensor has found its place, and every place its tensor.

    Args:
        base: The model that the adapter was trained on.
        directory: Where ``save_pretrained`` wrote the adapter.
        device: Where the adapter's tensors go.

    Raises:
        SftError: The adapter is not one of this base.
    """
    fix = "name the base it was trained on: model.path=DIR_OR_HUB_ID"
    if not (directory / "adapter_model.safetensors").is_file():
        raise SftError(
            where=str(directory),
            problem="it holds no adapter_model.safetensors, and pickled adapters (adapter_model.bin) are not read",
            fix="load it with PEFT where you trust its author, and save it again with save_pretrained",
        )
    try:
        with peft_quietly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are counted below
            model = PeftModel.from_pretrained(base, str(directory), torch_device=str(device))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(
            where=str(directory), problem=f"the adapter cannot be put on {base.name_or_path}: {reason}", fix=fix
        ) from error
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as tensors:
        saved = set(tensors.keys())
    places = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != places:
        raise SftError(
            where=str(directory),
            problem=f"the adapter does not fit the base {base.name_or_path}: {len(saved - places)} of its tensors"
            f" find no place, {len(places - saved)} places get no tensor",
            fix=fix,
        )
    prompt_learning.restore(model, directory)
    return model


@contextmanager
def peft_quietly() -> Iterator[None]:
    """Without three warnings about what PEFT itself does.

    One is for a name that transformers 5.23 has replaced, one for patterns that PEFT adds for experts of a mixture (the
    patterns of a config are checked before: ``targets.check_adapter``), and one for an adapter on one of two tied
    matrices, which merging unties (``merging.untie``).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
        yield
