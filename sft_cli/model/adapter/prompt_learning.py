"""Trained vectors before every example, through PEFT: prefix tuning, prompt tuning and LLaMA-Adapter.

Prefix tuning (Li & Liang 2021, arXiv:2101.00190) trains keys and values of every layer, prompt tuning (Lester et al.
2021, arXiv:2104.08691) embeddings. PEFT adds both in its own ``forward`` and ``generate``, so a row that goes to the
causal LM inside bypasses them, and a row of several documents would have them before the first one only: neither kind
is packed. LLaMA-Adapter (Zhang et al. 2023, arXiv:2303.16199) adds a gated attention to trained vectors inside the
upper layers: it depends on nothing but a token's own query, so it is packed like any other model.
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
from sft_cli.model.quant import causal_lm, evaluating

BEFORE = (AdapterKind.prefix, AdapterKind.prompt)
"""Kinds whose vectors stand before the first token and take places of the context."""
WITH_KEYS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that a prefix of keys and values can be put before."""


def places(config: AdapterConfig) -> int:
    """How many places of the model's context the vectors take."""
    return config.virtual.tokens if config.kind in BEFORE else 0


def before_the_tokens(model: nn.Module) -> bool:
    """Whether vectors stand before the first token: such a model is neither packed nor called past PEFT."""
    return isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning


def learning(model: PeftModel) -> PromptLearningConfig:
    """The settings of prefix or prompt tuning."""
    config = model.active_peft_config
    assert isinstance(config, PromptLearningConfig)
    return config


def num_vectors(model: nn.Module) -> int:
    """How many vectors stand before the first token."""
    if not before_the_tokens(model):
        return 0
    assert isinstance(model, PeftModel)
    return learning(model).num_virtual_tokens


def takes_padding(model: nn.Module) -> bool:
    """Whether prompts of several lengths can be answered at once.

    Under prompt tuning they cannot: the vectors stand before the padding, and PEFT drops the positions that would tell
    the model so.
    """
    return not (isinstance(model, PeftModel) and isinstance(model.active_peft_config, PromptTuningConfig))


def virtual_tokens_config(model: PreTrainedModel, config: AdapterConfig) -> PeftConfig:
    """What PEFT is told; the model may be empty (see ``load.empty_model``).

    Raises:
        SftError: The family cannot carry the kind.
    """
    text, tokens = model.config.get_text_config(), config.virtual.tokens
    if config.kind is AdapterKind.llama_adapter:
        layers = text.num_hidden_layers if config.virtual.layers is None else config.virtual.layers
        refuse_llama_adapter(model.config, layers)
        return AdaptionPromptConfig(task_type=TaskType.CAUSAL_LM, adapter_len=tokens, adapter_layers=layers)
    refuse_before(text, config.kind)
    kind = PrefixTuningConfig if config.kind is AdapterKind.prefix else PromptTuningConfig
    return kind(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)


def refuse_llama_adapter(own: PretrainedConfig, layers: int) -> None:
    """A sentence where PEFT does not compute LLaMA-Adapter, or computes it in other shapes than the model has."""
    where, fix = f"adapter.kind={AdapterKind.llama_adapter.value}", "adapter=prefix, or adapter=lora"
    text = own.get_text_config()
    if own.model_type not in TRANSFORMERS_MODEL_CONFIG:
        known = ", ".join(sorted(TRANSFORMERS_MODEL_CONFIG))
        raise SftError(where=where, problem=f"it exists for {known}, but the model is a {own.model_type}", fix=fix)
    width = text.to_dict().get("head_dim")
    if width is not None and width * text.num_attention_heads != text.hidden_size:
        raise SftError(
            where=where,
            problem=f"the {text.num_attention_heads} heads of {width} do not make the hidden width, {text.hidden_size},"
            " and PEFT takes no other",
            fix=fix,
        )
    if layers > text.num_hidden_layers:
        raise SftError(
            where=f"adapter.virtual.layers={layers}",
            problem=f"the model has {text.num_hidden_layers} layers",
            fix=f"adapter.virtual.layers={text.num_hidden_layers}, or leave it out for all of them",
        )


def refuse_before(text: PretrainedConfig, kind: AdapterKind) -> None:
    """A sentence for families without heads, and for prefixes before layers that have no keys and values to precede."""
    values = text.to_dict()
    layers = set(values.get("layer_types") or ())
    heads = "num_attention_heads" in values or "num_attention_heads" in text.attribute_map
    whole = kind is AdapterKind.prompt or (layers <= WITH_KEYS and "kv_lora_rank" not in values)
    if not heads or not whole:
        raise SftError(
            where=f"adapter.kind={kind.value}",
            problem=f"not every layer of a {text.model_type} keeps plain keys and values, which its vectors go before",
            fix="adapter=prompt, or adapter=lora" if heads else "adapter=lora",
        )


def begin(model: PeftModel, kind: AdapterKind, seed: int, text_ids: Sequence[int] = ()) -> None:
    """Set the first values of prefix and prompt tuning to what real tokens have: keys and values, or embeddings.

    Both papers find that random vectors learn worse than real words. LLaMA-Adapter begins with a closed gate.

    Args:
        model: As ``get_peft_model`` made it.
        kind: The adapter's kind.
        seed: Decides the tokens when there is no text.
        text_ids: Tokens of ``adapter.virtual.text``, repeated or cut to the number of vectors; empty draws them.
    """
    if kind not in BEFORE:
        return
    lm, tokens = causal_lm(model), learning(model).num_virtual_tokens
    if text_ids:
        ids = torch.tensor(list(islice(cycle(text_ids), tokens)))
    else:
        vocabulary = lm.config.get_text_config().vocab_size
        ids = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(seed))
    row = ids.to(lm.device)[None]
    with evaluating(model):
        if kind is AdapterKind.prefix:
            initialize_kv_prefix_from_past_key_values(model, past_key_values=keys_and_values(lm, row))
        else:
            embedded = lm.get_input_embeddings()(row)[0]
            assert isinstance(model.active_adapter, str)
            encoder = model.get_submodule(f"prompt_encoder.{model.active_adapter}")
            encoder.get_parameter("embedding.weight").copy_(embedded)


def keys_and_values(lm: PreTrainedModel, row: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``(1, heads, tokens, width)`` keys and values of every layer for a ``(1, tokens)`` row."""
    # A cache that knows the model's configuration would drop the first ones of layers with a sliding window.
    cache = lm(input_ids=row, past_key_values=DynamicCache(), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def in_float32(model: PeftModel) -> None:
    """Keep what is trained in float32: PEFT makes LLaMA-Adapter's vectors in the type of the base."""
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()


def restore(model: PeftModel, directory: Path) -> None:
    """Read a saved LLaMA-Adapter once more in float32, from which loading has cut it to the type of the base."""
    if not isinstance(model.active_peft_config, AdaptionPromptConfig):
        return
    for name, value in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("adaption_"):
            value.data = value.data.float()
    set_peft_model_state_dict(model, load_file(directory / "adapter_model.safetensors"))


def refuse_without_effect(model: PeftModel) -> None:
    """Return if the vectors before the tokens change what the model says; eight tokens are tried.

    Raises:
        SftError: They do not, or the family's forward cannot take them.
    """
    if not before_the_tokens(model):
        return
    lm = causal_lm(model)
    prefix = isinstance(model.active_peft_config, PrefixTuningConfig)
    where = f"adapter.kind={(AdapterKind.prefix if prefix else AdapterKind.prompt).value}"
    fix = "adapter=prompt, or adapter=lora" if prefix else "adapter=lora"
    ids = torch.arange(8, device=lm.device)[None] % lm.config.get_text_config().vocab_size
    try:
        with evaluating(model):
            bare, led = lm(input_ids=ids).logits, model(input_ids=ids).logits[:, -8:]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(where=where, problem=f"a {lm.config.model_type} cannot take it: {reason}", fix=fix) from error
    if torch.equal(bare, led):
        raise SftError(where=where, problem=f"the vectors never reach the layers of a {lm.config.model_type}", fix=fix)


@contextmanager
def spoken_through(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The causal LM inside, whose ``generate`` puts the vectors before the prompt, as ``PeftModel.generate`` does."""
    lm = causal_lm(model)
    if not before_the_tokens(model):
        yield lm
        return
    assert isinstance(model, PeftModel)
    own = model.base_model_prepare_inputs_for_generation
    lm.prepare_inputs_for_generation = model.prepare_inputs_for_generation
    try:
        with warnings.catch_warnings():
            # They count from 0 without padding, and the model then counts by itself, from the first vector on.
            warnings.filterwarnings("ignore", "Position ids are not supported for parameter efficient tuning")
            yield lm
    finally:
        lm.prepare_inputs_for_generation = own
