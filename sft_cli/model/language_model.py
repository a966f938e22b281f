"""The language model inside a multimodal model; only it is trained, the other parts are frozen."""

from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from sft_cli.errors import SftError
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.quant import evaluation_mode

MULTIMODAL_CLASSES: tuple[tuple[Any, Any], ...] = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES),
)
"""The automatic classes of models with towers, each with its map from model type to class name."""
TOWER_CONFIGS = ("vision_config", "audio_config")
"""The parts of a configuration that describe towers."""
TEXT_INPUTS = ("input_ids", "inputs_embeds")
"""Main inputs of inner models that belong to the language model (BLT has several); a tower takes pixels or sound."""
MODEL_CODE_ERRORS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)
"""What the code of a model raises for a configuration or an input that it does not support."""
TRIAL_TOKENS, TRIAL_PREFIX = 8, 4
"""Length of the trial row, and the number of its first tokens that stay the same when the others change."""
MAX_LEAK = 0.02
"""Largest relative change of a token's logits by rounding when later tokens change; attention to them changes more."""


def auto_class(config: PretrainedConfig) -> Any:
    """Return the automatic class that loads the model, with its towers if it has any.

    A family may have a class with towers and one for text alone (Qwen3.5): ``architectures`` in config.json decides.
    """
    text_class_name, architectures = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type),
        config.architectures or (),
    )
    for auto, classes in MULTIMODAL_CLASSES:
        class_name = classes.get(config.model_type)
        if (
            class_name is not None
            and class_name != text_class_name
            and (text_class_name is None or class_name in architectures)
        ):
            return auto
    return AutoModelForCausalLM


def is_supported_type(config: PretrainedConfig) -> bool:
    """Return whether transformers has a class for this model type that outputs text."""
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or any(kind in classes for _, classes in MULTIMODAL_CLASSES)


def is_multimodal(config: PretrainedConfig) -> bool:
    """Return whether the model also takes images or sound: it has towers, or is not loaded as a plain causal LM."""
    towers = any(name in TOWER_CONFIGS and vars(config).get(name) is not None for name in config.sub_configs)
    return towers or auto_class(config) is not AutoModelForCausalLM


def non_language_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the modules outside the language model: towers for images and sound, and their projectors.

    Empty for a text model. The model may be on the meta device (``load.empty_model``).
    """
    base, decoder = model.base_model, model.get_decoder()
    children = set(base.children())
    if model.config.get_text_config() is model.config or decoder not in children:
        return ()
    head = model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    return tuple(names[child] for child in base.children() if child is not decoder and child is not head)


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Return whether a layer or parameter is in one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def language_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules of the language model, by name."""
    towers = non_language_modules(model)
    return {name: module for name, module in model.named_modules() if not is_inside(name, towers)}


def check_separable(model: PreTrainedModel, where: str) -> None:
    """Refuse a model whose towers cannot be separated from its language model: they would be trained as well."""
    towers, model_config = non_language_modules(model), model.config
    named_towers = [
        name for name in model_config.sub_configs if name in TOWER_CONFIGS and vars(model_config).get(name) is not None
    ]
    inseparable = [
        name
        for name, part in model.named_modules()
        if isinstance(part, PreTrainedModel) and part.main_input_name not in TEXT_INPUTS and not is_inside(name, towers)
    ]
    if inseparable or (named_towers and not towers):
        part = inseparable[0] if inseparable else named_towers[0]
        raise unsuitable_model_error(
            model, where, f"its part {part} cannot be separated from its language model, the only trainable part"
        )


def check_trains_on_text(model: PreTrainedModel, where: str) -> None:
    """Refuse a model with towers whose language model cannot be trained on text alone, by a short random row.

    The row must run in training mode. In evaluation mode, in which a family may read a prompt in both directions
    (PaliGemma), no token may change the logits of earlier tokens. The model is not changed.
    """
    if non_language_modules(model) and (reason := text_training_problem(model)) is not None:
        raise unsuitable_model_error(model, where, reason)


def check_takes_text(model: PreTrainedModel, where: str) -> None:
    """Refuse a model that cannot compute a row of text alone in training mode; the model is not changed."""
    if (reason := text_input_problem(model)) is not None:
        raise unsuitable_model_error(model, where, reason)


def text_input_problem(model: PreTrainedModel) -> str | None:
    """Return why the model cannot compute a row of text in training mode, as a clause; None if it can."""
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            model.train()(input_ids=_trial_row(model), use_cache=False)
    except MODEL_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return f"it does not take text alone: {first_line(error)}"
    finally:
        model.train(training)
    return None


def _trial_row(model: PreTrainedModel) -> Tensor:
    """Return random ids ``(1, TRIAL_TOKENS)``, the same every time."""
    count = model.config.get_text_config().vocab_size
    return torch.randint(count, (1, TRIAL_TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)


def text_training_problem(model: PreTrainedModel) -> str | None:
    """Return why the model cannot be trained on text alone, as a clause; None if it can."""
    if (reason := text_input_problem(model)) is not None:
        return reason
    vocabulary, ids = model.config.get_text_config().vocab_size, _trial_row(model)
    changed_ids = ids.clone()
    changed_ids[:, TRIAL_PREFIX:] = (changed_ids[:, TRIAL_PREFIX:] + 1) % vocabulary
    takes_token_types = "token_type_ids" in signature(model.forward).parameters
    type_ids = {"token_type_ids": torch.zeros_like(ids)} if takes_token_types else {}  # as processors set them for text
    try:
        with evaluation_mode(model):
            logits, changed_logits = (
                model(input_ids=row, use_cache=False, **type_ids).logits[:, :TRIAL_PREFIX] for row in (ids, changed_ids)
            )
    except MODEL_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return f"it does not take text alone: {first_line(error)}"
    if not (logits - changed_logits).abs().max() <= MAX_LEAK * logits.abs().max():
        return "it reads prompts in both directions, but training predicts each token from those before it"
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unsuitable_model_error(model: PreTrainedModel, where: str, reason: str) -> SftError:
    """Build the error for a model that cannot be trained on text, or whose language model cannot be trained alone."""
    name = f"model type {model.config.model_type}"
    if not non_language_modules(model):
        return SftError(
            where=where,
            problem=f"{name} cannot be trained on text: {reason}",
            fix="model.path=DIR_OR_HUB_ID of a text model",
        )
    return SftError(
        where=where,
        problem=f"the language model inside {name} cannot be trained on text: {reason}",
        fix="model.path=DIR_OR_HUB_ID of a text model, or a multimodal one such as Qwen2.5-VL, Mistral 3 or Gemma 3",
    )


def frozen_towers_note(model: PreTrainedModel) -> str | None:
    """Return a log line about the frozen parts outside the language model; None for a text model."""
    if not (towers := non_language_modules(model)):
        return None
    return f"only the language model is trained: {', '.join(towers)} stay frozen and get no adapter"
