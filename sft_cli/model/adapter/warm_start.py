"""Adapters that a run starts from: find them, read them, and check that they fit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.home import expand_home

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
CONFIG_KEYS = {
    "r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "use_rslora": "adapter.rank_stabilized",
    "use_dora": "adapter.dora",
    "rank_pattern": "adapter.rank_pattern",
    "alpha_pattern": "adapter.alpha_pattern",
    "oft_block_size": "adapter.oft.block_size",
    "num_virtual_tokens": "adapter.virtual.tokens",
    "adapter_len": "adapter.virtual.tokens",
}
"""PEFT settings that must match those of a saved adapter, and their config keys."""
KIND_OF_PEFT_TYPE = {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt", "ADAPTION_PROMPT": "llama_adapter"}
"""The kind of each PEFT type that is not the kind's name in capitals."""


def find_adapter(path: str, where: str) -> Path:
    """Return the directory of an adapter: the path itself, or ``adapter/`` of a run.

    Raises:
        SftError: There is no adapter.
    """
    run_or_adapter = expand_home(path)
    directory = run_or_adapter if (run_or_adapter / ADAPTER_CONFIG).is_file() else RunDir(run_or_adapter).adapter
    if missing := [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (directory / name).is_file()]:
        raise SftError(
            where=f"{where}={path}",
            problem=f"there is no adapter: {missing[0]} is missing",
            fix=f"{where}=RUN that has finished, or a directory that PEFT wrote (sft runs lists the runs)",
        )
    return directory


def initial_adapters(config: AdapterConfig) -> dict[str, Path]:
    """Return the directories of the adapters that a run starts from, by config key.

    Raises:
        SftError: One is missing.
    """
    paths = {} if config.start_from is None else {"adapter.start_from": config.start_from}
    paths |= {f"adapter.frozen_adapters.{number}": path for number, path in enumerate(config.frozen_adapters)}
    return {key: find_adapter(path, key) for key, path in paths.items()}


def frozen_adapters(config: AdapterConfig) -> list[Path]:
    """Return the directories of the frozen adapters of a run, which become part of the exported one.

    Raises:
        SftError: One is missing.
    """
    return [path for key, path in initial_adapters(config).items() if key.startswith("adapter.frozen_adapters")]


def initial_adapter_digests(config: AdapterConfig) -> dict[str, str]:
    """Return the digests of the adapters that a run starts from, by config key; a resumed run must have the same ones.

    Raises:
        SftError: One is missing.
    """
    return {key: adapter_digest(directory) for key, directory in initial_adapters(config).items()}


def adapter_digest(directory: Path) -> str:
    """Return the sha256 of an adapter's config and weights."""
    hasher = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        with (directory / name).open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """Read ``adapter_config.json``."""
    return json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))


def load_initial_adapter(model: PeftModel, directory: Path) -> None:
    """Copy the weights of a saved adapter into the model's trained adapter, which must have the same kind and shape.

    Raises:
        SftError: Kind or shape differ; the message names the first key that does.
    """
    expected, saved = model.peft_config["default"].to_dict(), read_adapter_config(directory)
    where = "adapter.start_from"
    kind = expected["peft_type"].value
    if kind != saved["peft_type"]:
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} is {saved['peft_type']}, but adapter.kind is {kind}",
            fix=f"adapter.kind={KIND_OF_PEFT_TYPE.get(saved['peft_type'], saved['peft_type'].lower())}",
        )
    for name, key in CONFIG_KEYS.items():
        if name in expected and expected[name] != saved.get(name):
            raise SftError(
                where=where,
                problem=f"{key} is {expected[name]}, but the adapter in {directory} has {saved.get(name)}",
                fix=f"{key}={override_value(saved.get(name))}",
            )
    check_tensors_fit(directory, get_peft_model_state_dict(model, save_embedding_layers=False), where)
    set_peft_model_state_dict(model, load_file(directory / ADAPTER_WEIGHTS))


def override_value(value: Any) -> str:
    """Format a value for KEY=VALUE."""
    return json.dumps(value).replace('"', "").replace(" ", "") if isinstance(value, bool | dict) else str(value)


def check_tensors_fit(directory: Path, expected: Mapping[str, Tensor], where: str) -> None:
    """Refuse an adapter whose tensors differ from the expected ones in name or shape."""
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as tensors:
        saved = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118  no mapping
    shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    differing = sorted(key for key in saved.keys() | shapes.keys() if saved.get(key) != shapes.get(key))
    if differing:
        first = differing[0]
        config = read_adapter_config(directory)
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} does not fit: {len(differing)} tensors differ, the first is {first},"
            f" {saved.get(first, 'missing')} in the adapter and {shapes.get(first, 'missing')} in the model",
            fix=f"train on its base, with its adapter.target_modules and adapter.modules_to_save:"
            f" model.path={config.get('base_model_name_or_path') or 'DIR_OR_HUB_ID'}",
        )
