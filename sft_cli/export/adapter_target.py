"""``--to adapter``: the adapter with its tokenizer; with ``--portable``, one that servers of plain LoRA load.

An adapter may carry trained token rows (``trainable_token_indices``) and whole modules (``modules_to_save``). vLLM
refuses both. ``--portable`` writes them into a copy of the base, next to an adapter with the LoRA matrices alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sft_cli.chat.template import server
from sft_cli.config import paths
from sft_cli.console import gib, say
from sft_cli.errors import SftError
from sft_cli.export.record import write_record
from sft_cli.export.request import ExportRequest, require_space
from sft_cli.export.staging import new_directory
from sft_cli.merge.agreement import MAX_KL, compare_logits, read_comparison_rows, trained_logits
from sft_cli.merge.card import write_card
from sft_cli.merge.card_settings import is_hub_model
from sft_cli.merge.merge import write_merged
from sft_cli.merge.plan import MergePlan, count_weights, make_merge_plan
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.export_files import copy_model_files
from sft_cli.model.language_model import auto_class
from sft_cli.model.load import load_model_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROW_SETTINGS = ("modules_to_save", "trainable_token_indices")
ROW_TENSORS = (".token_adapter.", ".modules_to_save.", "trainable_tokens_delta")
"""Parts of the names of tensors that are not LoRA matrices."""


def export_adapter(request: ExportRequest) -> None:
    """Write the adapter to ``request.out``.

    Raises:
        SftError: It does not fit on the disk, cannot be made portable, or differs from the run's adapter.
    """
    source = request.run.adapter
    settings = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    if request.portable:
        _export_portable(request, settings, size)
        return
    require_space("adapter", size, request.out)
    with new_directory(request.out) as directory:
        shutil.copytree(source, directory, dirs_exist_ok=True)
        _write_settings(directory, {**settings, **base_reference(request)})
        write_card(request.run, request.config, directory)
        write_record(directory, request.run, request.config, "adapter", _dtype(directory))
    say(f"exported  {request.out} (adapter, {gib(size)})")


def base_reference(request: ExportRequest) -> dict[str, str | None]:
    """Return the entries of adapter_config.json that name the base: a hub id and revision, or a path here."""
    model = request.config.model
    assert model.path is not None
    path = model.path if is_hub_model(model.path) else paths.resolve(model.path)
    return {"base_model_name_or_path": path, "revision": model.revision}


def _export_portable(request: ExportRequest, settings: dict[str, Any], size: int) -> None:
    """Write ``base/`` with the trained rows, and ``adapter/`` with the LoRA matrices alone."""
    _check_portable(request, settings)
    plan = make_merge_plan(request.run, request.config, request.into, shard_size=request.shard_size)
    needed = count_weights(request.config.model) * plan.dtype.itemsize + size
    require_space("base with the trained rows, and adapter", needed, request.out)
    probes = read_comparison_rows(request.run.probes)
    with new_directory(request.out) as directory:
        base, adapter = directory / "base", directory / "adapter"
        copy_model_files(request.run, request.config.model, base)
        logits = write_merged(plan, base, probes, without_lora=True)
        shutil.copytree(request.run.adapter, adapter)
        tensors = load_file(adapter / WEIGHTS)
        kept = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in ROW_TENSORS)}
        save_file(kept, adapter / WEIGHTS, {"format": "pt"})
        final = str((request.out / "base").absolute())
        cleared = dict.fromkeys(ROW_SETTINGS)
        write_card(request.run, request.config, adapter)
        _write_settings(adapter, {**settings, **cleared, "base_model_name_or_path": final, "revision": None})
        _check_same(request, plan, base, adapter, logits)
        tokenizer = server.load_server_tokenizer(base, None, trust_remote_code=plan.model.trust_remote_code)
        rows = [(probe.where, probe.input_ids) for probe in probes]
        server.check_row_ids(tokenizer, request.run.adapter / "tokenizer.json", rows)
        write_record(directory, request.run, request.config, "adapter", str(plan.dtype).removeprefix("torch."))
    say(
        f"exported  {request.out}/base and {request.out}/adapter ({len(tensors) - len(kept)} tensors moved to the base)"
    )


def _check_portable(request: ExportRequest, settings: dict[str, Any]) -> None:
    """Refuse adapters that are portable already or cannot be split."""
    if not any(settings.get(name) for name in ROW_SETTINGS):
        raise SftError(
            where="--portable",
            problem="it would have no effect: the adapter has no trained token rows and no whole modules",
            fix="remove --portable",
        )
    if settings["peft_type"] != "LORA" or settings.get("use_dora"):
        name = "DoRA" if settings.get("use_dora") else settings["peft_type"]
        raise SftError(
            where="--portable",
            problem=f"the adapter is {name}, which servers of plain LoRA do not load",
            fix=request.merged_command,
        )


def _check_same(request: ExportRequest, plan: MergePlan, base: Path, adapter: Path, logits: Any) -> None:
    """Refuse a split whose parts together compute something else."""
    model: Any = auto_class(load_model_config(plan.model)).from_pretrained(
        base, trust_remote_code=plan.model.trust_remote_code
    )
    adapted = load_adapter(model.to(plan.device), adapter, plan.device)
    probes = read_comparison_rows(request.run.probes)
    agreement = compare_logits(logits, trained_logits(adapted, probes))
    if not agreement.kl <= MAX_KL[plan.dtype]:
        raise SftError(
            where="--portable",
            problem=f"base and adapter differ from the run's adapter: KL {agreement.kl:.2g} nats; nothing was written",
            fix=request.merged_command,
        )
    say(f"verified  KL {agreement.kl:.2g} nats from the run's adapter over {agreement.positions} positions")


def _write_settings(directory: Path, settings: dict[str, Any]) -> None:
    (directory / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _dtype(directory: Path) -> str:
    """Return the dtype of an adapter's first tensor."""
    tensor = next(iter(load_file(directory / WEIGHTS).values()))
    return str(tensor.dtype).removeprefix("torch.")
