"""LoRA adapters through PEFT, and the rows of a stop token that was never trained.

Why rows: a stop token that pretraining never used as a target has an output row that only ever was pushed away. LoRA
on the inner layers cannot single it out, because all other unused tokens have the same row; the model learns the
answers and never stops.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema import AdapterConfig, StopRow
from sft_cli.errors import SftError
from sft_cli.model.quant import causal_lm

ALL_LINEAR = "all-linear"
TWINS = 8
"""Near-identical rows that a stop row needs to count as one of the never-trained bulk."""
TWIN_DISTANCE = 0.1
"""Largest distance of two such rows, in units of the root-mean-square distance of all rows from their mean."""


@dataclass(frozen=True)
class AdapterReport:
    """A model with an adapter, and what of it is trained.

    Attributes:
        model: The base, frozen, with the adapter in float32 whatever the base is stored in (PEFT sees to it).
        stop_rows: Token ids whose embedding rows are trained beside the adapter.
        trainable: Number of trained parameters.
        total: Number of all parameters, quantised ones counted as stored.
    """

    model: PeftModel
    stop_rows: tuple[int, ...]
    trainable: int
    total: int


def add_adapter(model: PreTrainedModel, config: AdapterConfig, stop_ids: Sequence[int], *, seed: int) -> AdapterReport:
    """Freeze ``model`` and put a LoRA adapter on it, in place.

    Args:
        model: The base.
        config: Rank, scale, target modules, and whether stop rows are trained.
        stop_ids: Tokens that end an answer.
        seed: Decides the initial A matrices; torch's own generators are left alone.
    """
    targets = target_modules(model, config.target_modules)
    rows = stop_rows(model, config.train_stop_row, stop_ids)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  PEFT only multiplies with it
        lora_dropout=config.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
        trainable_token_indices=trained_rows(model, rows) if rows else None,
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), peft_quietly():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, lora)
    assert isinstance(adapted, PeftModel)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in adapted.parameters()]
    trainable = sum(size for size, trained in sizes if trained)
    return AdapterReport(adapted, tuple(rows), trainable, sum(size for size, _ in sizes))


def open_adapter(base: PreTrainedModel, directory: Path, device: torch.device) -> PeftModel:
    """The base with a saved adapter on it, in place: every tensor has found its place, and every place its tensor.

    Args:
        base: The model that the adapter was trained on.
        directory: Where ``save_pretrained`` wrote the adapter.
        device: Where the adapter's tensors go.

    Raises:
        SftError: The adapter is not one of this base.
    """
    fix = "name the base it was trained on: model.path=DIR_OR_HUB_ID"
    try:
        with peft_quietly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are counted below
            model = PeftModel.from_pretrained(base, str(directory), torch_device=str(device))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(
            where=str(directory), problem=f"the adapter cannot be put on {base.name_or_path}: {reason}", fix=fix
        ) from error
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as tensors:
        saved = set(tensors.keys())
    places = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != places:
        raise SftError(
            where=str(directory),
            problem=f"the adapter does not fit the base {base.name_or_path}: {len(saved - places)} of its tensors"
            f" find no place, {len(places - saved)} places get no tensor",
            fix=fix,
        )
    return model


@contextmanager
def peft_quietly() -> Iterator[None]:
    """Without the warning that transformers 5.23 gives for a name which PEFT and older transformers need."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
        yield


def save_memory(model: nn.Module) -> None:
    """Recompute each decoder layer in the backward pass (gradient checkpointing).

    Without reentrance a frozen input needs no gradient, so the embedding output is not made to carry one.
    """
    lm = causal_lm(model)
    with peft_quietly():
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    lm.disable_input_require_grads()


def target_modules(model: PreTrainedModel, wanted: Sequence[str]) -> str | list[str]:
    """What PEFT is told, after checking that every name matches a layer that can carry LoRA."""
    if list(wanted) == [ALL_LINEAR]:
        return ALL_LINEAR
    layers = (nn.Linear, nn.Embedding, Conv1D)
    names = [name for name, layer in model.named_modules() if isinstance(layer, layers)]
    available = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            near = get_close_matches(target, available, n=1, cutoff=0.0)
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} matches no layer of this model; there are {', '.join(available)}",
                fix=f"adapter.target_modules=[{near[0]}] is the nearest, or [{ALL_LINEAR}] alone",
            )
    return list(wanted)


def stop_rows(model: PreTrainedModel, choice: StopRow, stop_ids: Sequence[int]) -> list[int]:
    """The stop tokens whose rows get trained."""
    if choice is StopRow.never:
        return []
    return sorted(set(stop_ids)) if choice is StopRow.always else stop_rows_look_untrained(model, stop_ids)


def trained_rows(model: PreTrainedModel, rows: list[int]) -> dict[str, list[int]]:
    """The rows under the name of the input embedding and, where it has a matrix of its own, of the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {layer: name for name, layer in model.named_modules() if layer is embedding or layer is head}
    tied = head is None or head.weight is embedding.weight
    # PEFT follows a tied head by itself; naming it would train a second copy of the row.
    return {names[embedding]: rows} if tied else {names[embedding]: rows, names[head]: rows}


def stop_rows_look_untrained(model: PreTrainedModel, stop_ids: Sequence[int]) -> list[int]:
    """Those of ``stop_ids`` whose row, in the input embedding or the head, no training has set apart.

    Softmax pushes the output rows of all tokens that never are a target along one and the same direction, and weight
    decay shrinks what never gets a gradient: never-used rows end up on one spot (Land & Bartolo 2024,
    arXiv:2405.05417, find untrained tokens by closeness to known unused rows). So a row is called untrained when at
    least ``TWINS`` others lie within ``TWIN_DISTANCE`` of it, or when it is zero on that scale. In stories260k the
    stop row lies 0.0003 from its eighth neighbour and the rows of words beyond 0.3; random rows lie about 1.4 from
    any other, so of a randomly initialised model nothing is claimed.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    matrices = [layer.weight.detach() for layer in (embedding, head) if isinstance(layer, nn.Embedding | nn.Linear)]
    # A tied head is the same matrix, and looking twice changes nothing.
    return sorted({row for row in stop_ids for matrix in matrices if looks_untrained(matrix, row)})


def looks_untrained(matrix: Tensor, row: int) -> bool:
    """Whether ``matrix[row]`` is zero or one of many near-identical rows of a ``(vocabulary, width)`` matrix."""
    # Blocks, because a float32 copy of a large vocabulary's matrix is gigabytes.
    blocks = matrix.split(8192)
    mean = torch.stack([block.float().sum(dim=0) for block in blocks]).sum(dim=0) / len(matrix)
    spread = torch.stack([(block.float() - mean).pow(2).sum() for block in blocks]).sum().div(len(matrix)).sqrt()
    own = matrix[row].float()
    distances = torch.cat([(block.float() - own).norm(dim=1) for block in blocks])
    twins = int((distances <= TWIN_DISTANCE * spread).sum()) - 1  # it is no twin of itself
    return twins >= TWINS or bool(own.norm() <= TWIN_DISTANCE / 10 * spread)
