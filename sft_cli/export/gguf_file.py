"""Write a transformers model directory as one GGUF file, a tensor at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from sft_cli.errors import SftError
from sft_cli.export.gguf_family import (
    Array,
    Family,
    add_hyperparameters,
    convert_tensor,
    find_family,
    rope_tensors,
)
from sft_cli.export.gguf_vocab import Vocabulary, read_vocabulary

MAX_FLOAT16 = 65504
HEAD = "lm_head.weight"


def write_gguf(directory: Path, file: Path, dtype: str, fix: str) -> Vocabulary:
    """Write ``file`` from a model directory and return the vocabulary that it contains.

    Args:
        directory: A transformers model with safetensors, tokenizer and generation settings.
        file: The new file.
        dtype: ``f32``, ``f16``, ``bf16`` or ``q8_0`` of the matrices; vectors are always f32.
        fix: The fix for a model or tokenizer that llama.cpp does not have.

    Raises:
        SftError: llama.cpp cannot compute the model or use the tokenizer, or a weight does not fit into float16.
    """
    import gguf
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(directory)
    family = find_family(config, fix)
    vocabulary = read_vocabulary(directory, config.vocab_size, fix)
    writer = gguf.GGUFWriter(None, family.arch)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(directory.resolve().name if not directory.name.startswith(".") else file.stem)
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_hyperparameters(writer, config)
    _add_vocabulary(writer, vocabulary, directory)
    names = gguf.get_tensor_name_map(_arch(family), config.num_hidden_layers)
    places = list(_tensor_places(directory, tied=config.tie_word_embeddings))
    extra, kinds = list(rope_tensors(config)), dict[str, Any]()
    for name, tensor in extra:
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
    for name, (_, shape) in places:
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SftError(where="--to gguf", problem=f"llama.cpp has no tensor for {name}", fix=fix)
        kind = kinds[name] = storage_type(target, shape, dtype)
        size = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(target, shape, np.dtype(np.float32), int(np.prod(size)), raw_dtype=kind)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in extra:
        writer.write_tensor_data(tensor)
    for name, (source, _) in places:
        tensor = convert_tensor(name, _read(source, name), config, family)
        writer.write_tensor_data(_encode(name, tensor, kinds[name]))
    writer.close()
    return vocabulary


def _arch(family: Family) -> Any:
    import gguf

    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)


def storage_type(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Return the GGML type of a tensor: vectors stay f32, matrices whose rows are no multiple of a block become f16."""
    import gguf

    if len(shape) < 2 or name.endswith("_norm.weight"):
        return gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    return gguf.GGMLQuantizationType.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _tensor_places(directory: Path, *, tied: bool) -> Iterator[tuple[str, tuple[Path, tuple[int, ...]]]]:
    """Yield the name of each tensor with its file and shape; a tied head is left out."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                if not (tied and name == HEAD):
                    yield name, (file, tuple(tensors.get_slice(name).get_shape()))


def _read(file: Path, name: str) -> Array:
    """Return a tensor as float32."""
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name).float().numpy()


def _encode(name: str, tensor: Array, kind: Any) -> Array:
    """Return the bytes of a tensor in a GGML type."""
    import gguf

    if kind == gguf.GGMLQuantizationType.F16 and (peak := float(np.abs(tensor).max(initial=0))) > MAX_FLOAT16:
        raise SftError(
            where="--dtype f16",
            problem=f"{name} has a value of {peak:g}; float16 ends at {MAX_FLOAT16}",
            fix="--dtype bf16",
        )
    return np.ascontiguousarray(gguf.quants.quantize(np.ascontiguousarray(tensor, dtype=np.float32), kind))


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, directory: Path) -> None:
    """Add the vocabulary, the special tokens, the stop tokens and the chat template."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    add_special_tokens(writer, directory, vocabulary.tokens)
    template = directory / "chat_template.jinja"
    if template.is_file():
        named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        choices = [{"name": file.stem, "template": file.read_text(encoding="utf-8")} for file in named]
        writer.add_chat_template(
            [{"name": "default", "template": template.read_text(encoding="utf-8")}, *choices]
            if choices
            else template.read_text(encoding="utf-8")
        )


def add_special_tokens(writer: Any, directory: Path, tokens: list[str]) -> None:
    """Add the ids of BOS and PAD, and the stop tokens as EOS, EOT and EOM, in this order."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    stops = stop_ids(directory)
    for add, id in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), stops, strict=False
    ):
        add(id)
    bos = tokenizer.bos_token_id
    writer.add_bos_token_id(stops[0] if bos is None else bos)  # without one, llama.cpp would take id 1 or 11
    encoded = tokenizer.encode("a")
    writer.add_add_bos_token(bool(encoded) and bos is not None and encoded[0] == bos)
    writer.add_add_eos_token(False)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id < len(tokens):
        writer.add_unk_token_id(tokenizer.unk_token_id)


def stop_ids(directory: Path) -> list[int]:
    """Return the ids in generation_config.json at which an answer ends."""
    ids = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return ids if isinstance(ids, list) else [ids]
