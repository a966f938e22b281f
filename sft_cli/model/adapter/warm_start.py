"""Adapters that a run begins with: where they lie, what they are, and whether they fit."""

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

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
KEYS = {
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
"""Settings of PEFT that must agree with a saved adapter's, and the keys that say them."""
SPELLED = {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt", "ADAPTION_PROMPT": "llama_adapter"}
"""Kinds that PEFT spells otherwise than in small letters."""


def adapter_directory(path: str, where: str) -> Path:
    """The directory with the adapter: the path itself, or a run's ``adapter/``.

    Raises:
        SftError: There is none.
    """
    given = Path(path).expanduser()
    found = given if (given / SETTINGS).is_file() else RunDir(given).adapter
    if missing := [name for name in (SETTINGS, WEIGHTS) if not (found / name).is_file()]:
        raise SftError(
            where=f"{where}={path}",
            problem=f"there is no adapter: no {missing[0]}",
            fix="name a run of sft train that has finished, or a directory that PEFT wrote",
        )
    return found


def beginnings(config: AdapterConfig) -> dict[str, Path]:
    """The adapters that a run begins with, by key.

    Raises:
        SftError: One is not there.
    """
    named = {} if config.start_from is None else {"adapter.start_from": config.start_from}
    named |= {f"adapter.frozen_adapters.{number}": path for number, path in enumerate(config.frozen_adapters)}
    return {key: adapter_directory(path, key) for key, path in named.items()}


def digests(config: AdapterConfig) -> dict[str, str]:
    """The digests of those adapters, by key: a resumed run must begin with the same.

    Raises:
        SftError: One is not there.
    """
    return {key: digest(directory) for key, directory in beginnings(config).items()}


def digest(directory: Path) -> str:
    """The sha256 of an adapter's settings and weights."""
    total = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        with (directory / name).open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def adapter_settings(directory: Path) -> dict[str, Any]:
    """What ``adapter_config.json`` says."""
    return json.loads((directory / SETTINGS).read_text(encoding="utf-8"))


def start_from(model: PeftModel, directory: Path) -> None:
    """Put a saved adapter's weights into the model's own adapter, which must be of the same kind and shape.

    Raises:
        SftError: They differ; the first key that does is named.
    """
    own, saved = model.peft_config["default"].to_dict(), adapter_settings(directory)
    where = "adapter.start_from"
    kind = own["peft_type"].value
    if kind != saved["peft_type"]:
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} is {saved['peft_type']}, but adapter.kind makes {kind}",
            fix=f"adapter.kind={SPELLED.get(saved['peft_type'], saved['peft_type'].lower())}, or start from another"
            " adapter",
        )
    for name, key in KEYS.items():
        if name in own and own[name] != saved.get(name):
            raise SftError(
                where=where,
                problem=f"{key} is {own[name]}, but the adapter in {directory} has {saved.get(name)}",
                fix=f"{key}={spelled(saved.get(name))}",
            )
    check_fits(directory, get_peft_model_state_dict(model, save_embedding_layers=False), where)
    set_peft_model_state_dict(model, load_file(directory / WEIGHTS))


def spelled(value: Any) -> str:
    """A value as it is typed."""
    return json.dumps(value).replace('"', "").replace(" ", "") if isinstance(value, bool | dict) else str(value)


def check_fits(directory: Path, places: Mapping[str, Tensor], where: str) -> None:
    """Refuse an adapter whose tensors are not exactly those that the model has places for."""
    with safe_open(directory / WEIGHTS, framework="pt") as tensors:
        saved = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118  no mapping
    shapes = {key: tuple(tensor.shape) for key, tensor in places.items()}
    differing = sorted(key for key in saved.keys() | shapes.keys() if saved.get(key) != shapes.get(key))
    if differing:
        first = differing[0]
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} does not fit: {len(differing)} tensors differ, the first is {first},"
            f" {saved.get(first, 'missing')} there and {shapes.get(first, 'missing')} here",
            fix="train on the same base with the same adapter.target_modules, adapter.modules_to_save and"
            " adapter.train_stop_token as that adapter",
        )
