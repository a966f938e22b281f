"""Add a PEFT adapter to a base model, or select the base weights to train."""

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
from sft_cli.model.adapter.peft_configs import PEFT_CONFIGS
from sft_cli.model.adapter.stacking import add_initial_offset, load_frozen_adapter
from sft_cli.model.adapter.stop_token_rows import check_trained_rows, stop_tokens_to_train
from sft_cli.model.adapter.targets import check_adapter, unadapted_notes
from sft_cli.model.adapter.warm_start import initial_adapters, load_initial_adapter
from sft_cli.model.language_model import frozen_towers_note
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.quant import causal_lm


@dataclass(frozen=True)
class AdaptedModel:
    """A model with an adapter, and the numbers of its parameters.

    Attributes:
        model: The frozen base with an adapter, which is float32 whatever the dtype of the base; or the base itself if
            its own weights are trained.
        stop_tokens: Token ids whose embedding rows are trained in addition to the adapter.
        trainable: Number of trained parameters.
        total: Number of all parameters; quantized ones count by their stored elements.
        notes: Lines for the log.
    """

    model: PeftModel | PreTrainedModel
    stop_tokens: tuple[int, ...]
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
) -> AdaptedModel:
    """Freeze ``model`` and add an adapter to it, or select the weights that are trained; in place.

    Args:
        model: The base.
        config: The adapter.
        stop_ids: Tokens that end an answer.
        seed: Seed of the initial matrices; torch's global generators are not changed.
        rows: Training rows with ``input_ids``, in training order; only ``init: eva`` reads them.
        source: Location of the base's weights; only ``init: loftq`` reads them again.
        added_ids: Tokens that were added to the vocabulary; their embedding rows are trained as well.
        text_ids: Tokens of ``adapter.virtual.text``; only kinds ``prefix`` and ``prompt`` read them.

    Returns:
        The adapted model with its parameter counts.

    Raises:
        SftError: The base does not support this adapter.
    """
    tower_notes = () if (line := frozen_towers_note(model)) is None else (line,)
    if config.kind in WHOLE:
        base_weights.select_trainable(model, config)
        return adapted_model(model, (), tower_notes)
    check_adapter(model, config)
    stop_tokens = stop_tokens_to_train(model, config, stop_ids)
    trained_rows = sorted({*stop_tokens, *added_ids})
    check_trained_rows(model, config, trained_rows)
    notes = (*tower_notes, *unadapted_notes(model, config))
    peft_config = PEFT_CONFIGS[config.kind](model, config, trained_rows, seed)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), silence_peft_warnings():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, peft_config)
        assert isinstance(adapted, PeftModel)
        cast_saved_modules_to_float32(adapted)
        if config.kind in VIRTUAL:
            prompt_learning.cast_trained_to_float32(adapted)
        adapters = initial_adapters(config)
        if config.start_from is not None:
            load_initial_adapter(adapted, adapters["adapter.start_from"])
        else:
            initialize_adapter(adapted, config, seed, rows, source, text_ids)
        for number in range(len(config.frozen_adapters)):
            load_frozen_adapter(adapted, number, adapters[f"adapter.frozen_adapters.{number}"])
    return adapted_model(adapted, tuple(stop_tokens), notes)


def adapted_model(
    model: PeftModel | PreTrainedModel, stop_tokens: tuple[int, ...], notes: tuple[str, ...]
) -> AdaptedModel:
    """Wrap the model with its parameter counts."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trainable = sum(size for size, trained in sizes if trained)
    return AdaptedModel(model, stop_tokens, trainable, sum(size for size, _ in sizes), notes)


def initialize_adapter(
    model: PeftModel,
    config: AdapterConfig,
    seed: int,
    rows: Iterable[Mapping[str, Sequence[int]]],
    source: ModelConfig | None,
    text_ids: Sequence[int],
) -> None:
    """Set initial values that depend on the base, the data or a text; a model on the meta device is not changed.

    Args:
        model: The adapted model.
        config: Its adapter.
        seed: Seed of the random numbers.
        rows: Training rows, read by EVA.
        source: Location of the base's weights, read by LoftQ.
        text_ids: Tokens of ``adapter.virtual.text``.
    """
    if causal_lm(model).device.type == "meta":
        return
    if config.kind in VIRTUAL:
        prompt_learning.initialize_virtual_tokens(model, config.kind, seed, text_ids)
    if config.kind is not AdapterKind.lora:
        return
    if config.init in (Init.pissa, Init.olora):
        lora_inits.init_from_weights(model, config.init, seed)
        add_initial_offset(model)
    elif config.init is Init.loftq:
        assert source is not None, "loftq reads the original weights"
        lora_inits.init_loftq(model, source, seed)
    elif config.init is Init.eva:
        lora_inits.init_eva(model, rows)


def cast_saved_modules_to_float32(model: PeftModel) -> None:
    """Keep the modules of ``modules_to_save`` in float32, as PEFT does with adapters."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()


def load_adapter(base: PreTrainedModel, directory: Path, device: torch.device) -> PeftModel:
    """Load a saved adapter onto a base, in place, and check that their tensors match one to one.

    Args:
        base: The model that the adapter was trained on.
        directory: Directory written by ``save_pretrained``.
        device: Device of the adapter's tensors.

    Raises:
        SftError: The adapter does not belong to this base.
    """
    fix = "name the base it was trained on: model.path=DIR_OR_HUB_ID"
    if not (directory / "adapter_model.safetensors").is_file():
        raise SftError(
            where=str(directory),
            problem="there is no adapter_model.safetensors, and pickled adapters (adapter_model.bin) are not read",
            fix="if you trust its author, load it with PEFT and save it again with save_pretrained",
        )
    try:
        with silence_peft_warnings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are counted below
            model = PeftModel.from_pretrained(base, str(directory), torch_device=str(device))
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise SftError(
            where=str(directory), problem=f"the adapter cannot be loaded onto {base.name_or_path}: {reason}", fix=fix
        ) from error
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as tensors:
        saved = set(tensors.keys())
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != expected:
        raise SftError(
            where=str(directory),
            problem=f"the adapter does not fit the base {base.name_or_path}: {len(saved - expected)} of its tensors"
            f" are unexpected, {len(expected - saved)} are missing",
            fix=fix,
        )
    prompt_learning.restore_float32(model, directory)
    return model


@contextmanager
def silence_peft_warnings() -> Iterator[None]:
    """Ignore three warnings about PEFT's own behavior inside the block.

    They are about patterns that PEFT adds for the experts of a mixture (``targets.check_adapter`` has checked those of
    the config), about an adapter on one of two tied matrices, which merging unties (``merge.untie_embeddings``), and
    about a name that transformers 5.23 has replaced.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
        yield
