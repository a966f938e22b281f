"""Trained vectors (virtual tokens) before every example, by PEFT: prefix tuning, prompt tuning and LLaMA-Adapter.

Prefix tuning (Li & Liang 2021, arXiv:2101.00190) trains keys and values of every layer, prompt tuning (Lester et al.
2021, arXiv:2104.08691) embeddings. PEFT adds both in its own ``forward`` and ``generate``: a row that is passed to the
inner causal LM would bypass them, and a packed row would have them only before its first document. So neither kind is
packed. LLaMA-Adapter (Zhang et al. 2023, arXiv:2303.16199) adds a gated attention to trained vectors inside the upper
layers. It depends only on a token's own query, so it is packed like any other model.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import torch
from peft import (
    AdaptionPromptConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptLearningConfig,
    PromptTuningConfig,
    TaskType,
    initialize_kv_prefix_from_past_key_values,
    set_peft_model_state_dict,
)
from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.quant import causal_lm, evaluation_mode

PREPENDED_KINDS = (AdapterKind.prefix, AdapterKind.prompt)
"""Kinds whose vectors precede the first token and take positions of the context."""
KEY_VALUE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types that accept a prefix of keys and values."""


def num_virtual_positions(config: AdapterConfig) -> int:
    """Return the number of context positions that the vectors take."""
    return config.virtual.tokens if config.kind in PREPENDED_KINDS else 0


def has_prepended_vectors(model: nn.Module) -> bool:
    """Return whether vectors precede the first token. Such a model is not packed, and needs PEFT's own forward."""
    return isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning


def active_prompt_config(model: PeftModel) -> PromptLearningConfig:
    """Return the settings of prefix or prompt tuning."""
    config = model.active_peft_config
    assert isinstance(config, PromptLearningConfig)
    return config


def num_prepended_vectors(model: nn.Module) -> int:
    """Return the number of vectors that precede the first token."""
    if not has_prepended_vectors(model):
        return 0
    assert isinstance(model, PeftModel)
    return active_prompt_config(model).num_virtual_tokens


def supports_padding(model: nn.Module) -> bool:
    """Return whether answers to prompts of different lengths can be generated in one batch.

    Prompt tuning cannot: its vectors precede the padding, and PEFT drops the position ids that would account for it.
    """
    return not (isinstance(model, PeftModel) and isinstance(model.active_peft_config, PromptTuningConfig))


def virtual_tokens_config(model: PreTrainedModel, config: AdapterConfig) -> PeftConfig:
    """Return PEFT's config; the model may be on the meta device (``load.empty_model``).

    Raises:
        SftError: The family does not support the kind.
    """
    text, tokens = model.config.get_text_config(), config.virtual.tokens
    if config.kind is AdapterKind.llama_adapter:
        layers = text.num_hidden_layers if config.virtual.layers is None else config.virtual.layers
        check_llama_adapter(model.config, layers)
        return AdaptionPromptConfig(task_type=TaskType.CAUSAL_LM, adapter_len=tokens, adapter_layers=layers)
    check_prepended_vectors(text, config.kind)
    kind = PrefixTuningConfig if config.kind is AdapterKind.prefix else PromptTuningConfig
    return kind(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)


def check_llama_adapter(original: PretrainedConfig, layers: int) -> None:
    """Refuse models for which PEFT has no LLaMA-Adapter, or assumes other shapes."""
    where, fix = f"adapter.kind={AdapterKind.llama_adapter.value}", "adapter=prefix, or adapter=lora"
    text = original.get_text_config()
    if original.model_type not in TRANSFORMERS_MODEL_CONFIG:
        known = ", ".join(sorted(TRANSFORMERS_MODEL_CONFIG))
        raise SftError(where=where, problem=f"it exists for {known}, but the model is a {original.model_type}", fix=fix)
    width = text.to_dict().get("head_dim")
    if width is not None and width * text.num_attention_heads != text.hidden_size:
        raise SftError(
            where=where,
            problem=f"the {text.num_attention_heads} heads of width {width} do not add up to the hidden size"
            f" {text.hidden_size}, which PEFT requires",
            fix=fix,
        )
    if layers > text.num_hidden_layers:
        raise SftError(
            where=f"adapter.virtual.layers={layers}",
            problem=f"the model has {text.num_hidden_layers} layers",
            fix=f"adapter.virtual.layers={text.num_hidden_layers}, or remove it for all of them",
        )


def check_prepended_vectors(text: PretrainedConfig, kind: AdapterKind) -> None:
    """Refuse families without attention heads and, for prefixes, layers without plain keys and values."""
    values = text.to_dict()
    layers = set(values.get("layer_types") or ())
    has_heads = "num_attention_heads" in values or "num_attention_heads" in text.attribute_map
    has_plain_cache = kind is AdapterKind.prompt or (layers <= KEY_VALUE_LAYERS and "kv_lora_rank" not in values)
    if not has_heads or not has_plain_cache:
        raise SftError(
            where=f"adapter.kind={kind.value}",
            problem=f"not every layer of a {text.model_type} has plain keys and values, which the vectors must precede",
            fix="adapter=prompt, or adapter=lora" if has_heads else "adapter=lora",
        )


def initialize_virtual_tokens(model: PeftModel, kind: AdapterKind, seed: int, text_ids: Sequence[int] = ()) -> None:
    """Initialize the vectors of prefix or prompt tuning with the keys and values, or embeddings, of real tokens.

    Both papers find that random vectors learn worse than real words. LLaMA-Adapter is not changed: its gate is closed.

    Args:
        model: The result of ``get_peft_model``.
        kind: The adapter's kind.
        seed: Seed of the tokens if there is no text.
        text_ids: Tokens of ``adapter.virtual.text``, repeated or cut to the number of vectors; if empty, tokens are
            drawn.
    """
    if kind not in PREPENDED_KINDS:
        return
    lm, tokens = causal_lm(model), active_prompt_config(model).num_virtual_tokens
    if text_ids:
        ids = torch.tensor(list(islice(cycle(text_ids), tokens)))
    else:
        vocabulary = lm.config.get_text_config().vocab_size
        ids = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(seed))
    ids_row = ids.to(lm.device)[None]
    with evaluation_mode(model):
        if kind is AdapterKind.prefix:
            initialize_kv_prefix_from_past_key_values(model, past_key_values=keys_and_values(lm, ids_row))
        else:
            embedded = lm.get_input_embeddings()(ids_row)[0]
            assert isinstance(model.active_adapter, str)
            encoder = model.get_submodule(f"prompt_encoder.{model.active_adapter}")
            encoder.get_parameter("embedding.weight").copy_(embedded)


def keys_and_values(lm: PreTrainedModel, ids_row: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return keys and values ``(1, heads, tokens, width)`` of every layer for a ``(1, tokens)`` row."""
    # A cache with the model's configuration would drop the first tokens in layers with a sliding window.
    cache = lm(input_ids=ids_row, past_key_values=DynamicCache(), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def cast_trained_to_float32(model: PeftModel) -> None:
    """Cast the trained vectors to float32: PEFT creates those of LLaMA-Adapter in the dtype of the base."""
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()


def restore_float32(model: PeftModel, directory: Path) -> None:
    """Read a saved LLaMA-Adapter again in float32, because PEFT loads it in the dtype of the base."""
    if not isinstance(model.active_peft_config, AdaptionPromptConfig):
        return
    for name, value in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("adaption_"):
            value.data = value.data.float()
    set_peft_model_state_dict(model, load_file(directory / "adapter_model.safetensors"))


def check_vectors_take_effect(model: PeftModel) -> None:
    """Check on eight tokens that the prepended vectors change the logits.

    Raises:
        SftError: They do not change them, or the family's forward does not accept them.
    """
    if not has_prepended_vectors(model):
        return
    lm = causal_lm(model)
    prefix = isinstance(model.active_peft_config, PrefixTuningConfig)
    where = f"adapter.kind={(AdapterKind.prefix if prefix else AdapterKind.prompt).value}"
    fix = "adapter=prompt, or adapter=lora" if prefix else "adapter=lora"
    ids = torch.arange(8, device=lm.device)[None] % lm.config.get_text_config().vocab_size
    try:
        with evaluation_mode(model):
            without_vectors, with_vectors = lm(input_ids=ids).logits, model(input_ids=ids).logits[:, -8:]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise SftError(
            where=where, problem=f"a {lm.config.model_type} does not support it: {reason}", fix=fix
        ) from error
    if torch.equal(without_vectors, with_vectors):
        raise SftError(where=where, problem=f"the vectors never reach the layers of a {lm.config.model_type}", fix=fix)


@contextmanager
def generating_with_vectors(model: nn.Module) -> Iterator[PreTrainedModel]:
    """Yield the inner causal LM; its ``generate`` prepends the vectors, as ``PeftModel.generate`` does."""
    lm = causal_lm(model)
    if not has_prepended_vectors(model):
        yield lm
        return
    assert isinstance(model, PeftModel)
    original = model.base_model_prepare_inputs_for_generation
    lm.prepare_inputs_for_generation = model.prepare_inputs_for_generation
    try:
        with warnings.catch_warnings():
            # Without padding PEFT may ignore the position ids: the model then counts from the first vector.
            warnings.filterwarnings("ignore", "Position ids are not supported for parameter efficient tuning")
            yield lm
    finally:
        lm.prepare_inputs_for_generation = original
