"""The language model inside a model that also takes images or sound: it alone is trained, all else stays as it is."""

from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
from torch import nn
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
from sft_cli.model.quant import evaluating

WHOLE: tuple[tuple[Any, Any], ...] = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES),
)
"""The automatic classes of models with towers, and model type -> name of its class."""
TOWERS = ("vision_config", "audio_config")
"""The parts of a configuration that describe towers."""
READS = ("input_ids", "inputs_embeds")
"""What the models inside that belong to the language model take (BLT has several); a tower takes pixels or sound."""
TOKENS, SAME = 8, 4
"""Length of the row that is tried, and how many of its first tokens stay the same when the others change."""
LEAK = 0.02
"""Largest change of the logits of a token by those behind it, relative: rounding; attention to them makes more."""


def auto_class(config: PretrainedConfig) -> Any:
    """The automatic class that loads the model as config.json names it: with its towers, if it has some.

    A family may have a class with towers and one of text alone (Qwen3.5): the ``architectures`` decide.
    """
    text, named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type), config.architectures or ()
    for auto, classes in WHOLE:
        own = classes.get(config.model_type)
        if own is not None and own != text and (text is None or own in named):
            return auto
    return AutoModelForCausalLM


def known(config: PretrainedConfig) -> bool:
    """Whether transformers has a class that answers in text for this model type."""
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or any(kind in classes for _, classes in WHOLE)


def takes_more(config: PretrainedConfig) -> bool:
    """Whether the model takes images or sound too: transformers loads it by a class of its own, or it has towers."""
    towers = any(name in TOWERS and vars(config).get(name) is not None for name in config.sub_configs)
    return towers or auto_class(config) is not AutoModelForCausalLM


def beside_language(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the modules beside the language model: towers for images and sound, and their projectors.

    Empty for a model of text alone. The model may be empty (see ``load.empty_model``).
    """
    base, decoder = model.base_model, model.get_decoder()
    children = set(base.children())
    if model.config.get_text_config() is model.config or decoder not in children:
        return ()
    head = model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    return tuple(names[child] for child in base.children() if child is not decoder and child is not head)


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether a layer or parameter is in one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def own_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules by name, of a model with towers those outside of them."""
    beside = beside_language(model)
    return {name: module for name, module in model.named_modules() if not within(name, beside)}


def refuse_inseparable(model: PreTrainedModel, where: str) -> None:
    """A sentence for a model whose towers cannot be separated from its language model: they would be trained, too."""
    beside, own = beside_language(model), model.config
    stated = [name for name in own.sub_configs if name in TOWERS and vars(own).get(name) is not None]
    foreign = [
        name
        for name, part in model.named_modules()
        if isinstance(part, PreTrainedModel) and part.main_input_name not in READS and not within(name, beside)
    ]
    if foreign or (stated and not beside):
        part = foreign[0] if foreign else stated[0]
        raise unsuitable(
            model, where, f"its part {part} cannot be separated from its language model, which alone may train"
        )


def refuse_unproven(model: PreTrainedModel, where: str) -> None:
    """A sentence when text alone does not train the language model beside towers; it is tried on a short random row.

    Text goes through the model in training mode; in evaluation mode, where a family may read a prompt in both
    directions (PaliGemma), no token may change the logits of those before it. Nothing of the model changes.
    """
    if beside_language(model) and (reason := trial(model)) is not None:
        raise unsuitable(model, where, reason)


def trial(model: PreTrainedModel) -> str | None:
    """Why text alone does not train the model, in a clause; None if it does."""
    count, training = model.config.get_text_config().vocab_size, model.training
    ids = torch.randint(count, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    other = ids.clone()
    other[:, SAME:] = (other[:, SAME:] + 1) % count
    marked = "token_type_ids" in signature(model.forward).parameters
    kinds = {"token_type_ids": torch.zeros_like(ids)} if marked else {}  # what processors write for text
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            model.train()(input_ids=ids, use_cache=False)
        with evaluating(model):
            own, changed = (model(input_ids=one, use_cache=False, **kinds).logits[:, :SAME] for one in (ids, other))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError) as error:
        return f"it does not take text alone: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    finally:
        model.train(training)
    if not (own - changed).abs().max() <= LEAK * own.abs().max():
        return "it reads a prompt in both directions, so training each token from those before it would not suit it"
    return None


def unsuitable(model: PreTrainedModel, where: str, reason: str) -> SftError:
    """The mistake of naming a model whose language model cannot be trained alone."""
    return SftError(
        where=where,
        problem=f"the language model inside model type {model.config.model_type} cannot be trained on text: {reason}",
        fix="name a text model, or another model with towers, as Qwen2.5-VL, Mistral 3 or Gemma 3",
    )


def sentence(model: PreTrainedModel) -> str | None:
    """A line for the log about what stays frozen beside the language model; None for a model of text alone."""
    if not (beside := beside_language(model)):
        return None
    return f"the language model alone is trained: {', '.join(beside)} stay frozen and get no adapter"
