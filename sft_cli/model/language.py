"""The language model inside a vision-language model: what is trained on text, and what beside it stays as it is."""

from collections.abc import Iterable
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

WRAPPERS = ("mistral3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Vision-language types that ``AutoModelForCausalLM`` does not know, and whose language model is trained all the same.
Others (gemma3) are loaded with their vision tower by ``AutoModelForCausalLM`` itself."""


def auto_class(config: PretrainedConfig) -> Any:
    """The class that loads the model whole: of a vision-language model, its own class with the vision tower."""
    return AutoModelForImageTextToText if config.model_type in WRAPPERS else AutoModelForCausalLM


def other_vision(config: PretrainedConfig) -> bool:
    """Whether it is a vision-language model whose language model has not been shown to train alone."""
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and config.model_type not in WRAPPERS


def beside_language(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the modules beside the language model: towers for images and sound, and their projectors.

    Empty for a model of text alone. The model may be empty (see ``load.empty_model``).
    """
    base, decoder = model.base_model, model.get_decoder()
    names = {module: name for name, module in model.named_modules()}
    if model.config.get_text_config() is model.config or decoder not in set(base.children()):
        return ()
    return tuple(names[child] for child in base.children() if child is not decoder)


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether a layer or parameter lies in one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def sentence(model: PreTrainedModel) -> str | None:
    """A line for the log about what stays frozen beside the language model; None for a model of text alone."""
    if not (beside := beside_language(model)):
        return None
    return f"the language model alone is trained: {', '.join(beside)} stay frozen and get no adapter"
