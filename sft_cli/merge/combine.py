"""Combine LoRA adapters of one base into one adapter, and check it before it is kept.

PEFT's combination ``linear`` adds the A matrices and the B matrices separately, so their product has cross terms
B_i A_j. Here ``linear`` is the weighted sum of the updates, sum of w_i s_i B_i A_i, which PEFT calls ``cat``: its rank
is the sum of the ranks. The other methods work on the updates too, not on A and B, and keep the largest rank by a
singular value decomposition (PEFT's ``svd``, ``ties_svd``, ``dare_linear_svd``).
"""

import json
import shlex
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from sft_cli import __version__
from sft_cli.config import paths
from sft_cli.config.schema.config import Config
from sft_cli.console import say, table
from sft_cli.errors import SftError
from sft_cli.merge.agreement import MAX_KL, Agreement, ComparisonRow, compare_logits, read_comparison_rows
from sft_cli.merge.agreement import trained_logits as logits_of
from sft_cli.merge.card import CARD
from sft_cli.merge.card_settings import public_name
from sft_cli.merge.merge import load_base_to_merge, release_memory
from sft_cli.merge.plan import MergePlan, make_merge_plan
from sft_cli.model.adapter.add import load_adapter, silence_peft_warnings
from sft_cli.model.adapter.lora_inits import lora_layers, lora_matrices
from sft_cli.model.adapter.stacking import check_stackable
from sft_cli.model.adapter.warm_start import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_digest, read_adapter_config
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import apply_umask

Method = Literal["linear", "svd", "ties", "dare"]
PEFT_NAMES: dict[Method, str] = {"linear": "cat", "svd": "svd", "ties": "ties_svd", "dare": "dare_linear_svd"}
PRUNING = ("ties", "dare")
"""Methods that drop entries of the updates, with a density."""
NAME, RECORD = "combined", "combined.json"
SEED = 0
"""Seed of the entries that DARE drops."""


@dataclass(frozen=True, slots=True)
class Combination:
    """What is combined.

    Attributes:
        runs: Finished runs with LoRA adapters of one base.
        configs: Their configs.
        weights: The weight of each adapter.
        method: How they are combined.
        density: Fraction of the entries that TIES and DARE keep.
    """

    runs: Sequence[RunDir]
    configs: Sequence[Config]
    weights: Sequence[float]
    method: Method
    density: float


def combine_adapters(combination: Combination, out: Path, max_kl: float | None) -> Agreement:
    """Write the combined adapter to ``out``; if it fails its check, write nothing.

    Args:
        combination: What is combined.
        out: A path that does not exist.
        max_kl: Largest divergence of ``linear`` from the sum of the updates, in nats; None means that of a merge.

    Returns:
        The agreement of the base plus the weighted sum of the updates with the written adapter.

    Raises:
        SftError: The adapters cannot be combined, or ``linear`` differs from the sum.
    """
    check_combinable(combination)
    run = combination.runs[0]
    plan, probes = make_merge_plan(run, combination.configs[0], "original"), read_comparison_rows(run.probes)
    model = _combine(combination, plan)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _save(model, combination, temporary)
        expected = _summed_logits(model, combination, probes)
        del model
        release_memory()
        written = logits_of(load_adapter(load_base_to_merge(plan), temporary, plan.device), probes)
        agreement = compare_logits(expected, written)
        _report(combination, agreement, MAX_KL[plan.sum_dtype] if max_kl is None else max_kl)
        apply_umask(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"combined  {out}")
    return agreement


def check_combinable(combination: Combination) -> None:
    """Refuse adapters of different bases, and those that are no plain LoRA.

    Raises:
        SftError: As described.
    """
    first, *others = zip(combination.runs, combination.configs, strict=True)
    for run, config in others:
        same = _base(config) == _base(first[1])
        if not same:
            raise SftError(
                where=str(run.path),
                problem=f"its base is {config.model.path}, that of {first[0].path} is {first[1].model.path}:"
                " adapters of different bases cannot be combined",
                fix="combine runs of one base: sft runs lists them",
            )
    for run in combination.runs:
        fix = f"merge this adapter alone: sft merge {shlex.quote(str(run.path))}"
        check_stackable(str(run.path), run.adapter, read_adapter_config(run.adapter), fix)
    templates = {(run.adapter / "chat_template.jinja").read_bytes() for run in combination.runs}
    if len(templates) > 1:
        say(f"warning: the runs have different chat templates; that of {combination.runs[0].path} is kept")


def _base(config: Config) -> tuple[str, str | None]:
    assert config.model.path is not None
    return paths.resolve(config.model.path), config.model.revision


def _names(combination: Combination) -> list[str]:
    return [f"run_{number}" for number in range(1, len(combination.runs) + 1)]


def _combine(combination: Combination, plan: MergePlan) -> PeftModel:
    """Return the base with all adapters and the combined one, which is active."""
    names = _names(combination)
    with silence_peft_warnings():
        base: Any = load_base_to_merge(plan)
        device = str(plan.device)
        model: Any = PeftModel.from_pretrained(base, str(combination.runs[0].adapter), names[0], torch_device=device)
        for name, run in zip(names[1:], combination.runs[1:], strict=True):
            model.load_adapter(str(run.adapter), name, torch_device=device)
    # PEFT copies this config and sets alpha to the rank, which is a scale of 1 without rank stabilization alone.
    model.peft_config[names[0]].use_rslora = False
    options: dict[str, Any] = {"density": combination.density} if combination.method in PRUNING else {}
    kind = PEFT_NAMES[combination.method]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The density")  # a density of 1 keeps everything, as asked
            torch.manual_seed(SEED)
            model.add_weighted_adapter(names, list(combination.weights), NAME, kind, svd_full_matrices=False, **options)
    except (ValueError, TypeError) as error:
        raise SftError(
            where=f"--combine {combination.method}",
            problem=f"PEFT refuses to combine these adapters: {str(error).splitlines()[0]}",
            fix="combine runs with the same adapter.target_modules (a list of names)",
        ) from error
    model.set_adapter(NAME)
    return model


@torch.no_grad()
def _summed_logits(model: PeftModel, combination: Combination, probes: Sequence[ComparisonRow]) -> list[Tensor]:
    """Return the logits of the base plus the sum of w_i s_i B_i A_i, which is added to the base's weights in place."""
    for name, weight in zip(_names(combination), combination.weights, strict=True):
        for layer in lora_layers(model, name).values():
            _add_update(layer, name, weight)
    with model.disable_adapter():
        return logits_of(model, probes)


def _add_update(layer: LoraLayer, name: str, weight: float) -> None:
    """Add an adapter's weighted update to the weight of its base layer."""
    a, b = lora_matrices(layer, name)
    stored: Any = layer.get_base_layer().weight
    update = weight * layer.scaling[name] * (b.float() @ a.float())
    stored.data += (update if update.shape == stored.shape else update.T).to(stored.dtype)


def _save(model: PeftModel, combination: Combination, directory: Path) -> None:
    """Write the combined adapter, the tokenizer of the first run, and the record of the combination."""
    source = combination.runs[0].adapter
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD))
    tensors = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    settings: Any = model.peft_config[NAME]
    settings.inference_mode = True
    settings.save_pretrained(str(directory))
    config = combination.configs[0]
    assert config.model.path is not None
    record = {
        "sft_cli": __version__,
        "method": combination.method,
        "peft_method": PEFT_NAMES[combination.method],
        "density": combination.density if combination.method in PRUNING else None,
        "seed": SEED if combination.method == "dare" else None,
        "base": {"name": public_name(config.model.path), "revision": config.model.revision},
        "adapters": [
            {"run": run.path.resolve().name, "weight": weight, "sha256": adapter_digest(run.adapter)}
            for run, weight in zip(combination.runs, combination.weights, strict=True)
        ],
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _report(combination: Combination, agreement: Agreement, limit: float) -> None:
    """Print how far the adapter is from the sum of the updates; refuse a ``linear`` one that differs from it.

    Raises:
        SftError: As described.
    """
    is_exact = combination.method == "linear"
    columns = ("logits compared", "KL in nats", "at most", "same top token", "positions", "rows")
    name = f"sum of the updates and {combination.method}"
    bound = limit if is_exact else None
    top = f"{agreement.argmax:.2%}"
    table(columns, [(name, agreement.kl, bound, top, agreement.positions, agreement.rows)])
    if is_exact and not agreement.kl <= limit:
        raise SftError(
            where="--combine linear",
            problem=f"the combined adapter differs from the sum of the updates: KL {agreement.kl:.2g} nats over"
            f" {agreement.positions} positions, at most {limit:g} is allowed; nothing was written",
            fix="check the adapters with sft eval; --max-kl NATS allows more",
        )
