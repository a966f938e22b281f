"""The rows of a stop token that was never trained, and how they are trained beside an adapter.

Why rows: a stop token that pretraining never used as a target has an output row that only ever was pushed away. LoRA
on the inner layers cannot single it out, because all other unused tokens have the same row; the model learns the
answers and never stops.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import MERGEABLE, AdapterConfig, AdapterKind, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.model.adapter.targets import adapted_layers

TWINS = 8
"""Near-identical rows that a stop row needs to count as one of the never-trained bulk."""
TWIN_DISTANCE = 0.1
"""Largest distance of two such rows, in units of the root-mean-square distance of all rows from their mean."""


def stop_rows(model: PreTrainedModel, config: AdapterConfig, stop_ids: Sequence[int]) -> list[int]:
    """The stop tokens whose rows get trained.

    Raises:
        SftError: They look untrained, and the kind of adapter leaves rows alone: the model would never stop.
    """
    if config.train_stop_token is TrainStopToken.never:
        return []
    always = config.train_stop_token is TrainStopToken.always
    found = sorted(set(stop_ids)) if always else stop_rows_look_untrained(model, stop_ids)
    if not found or config.kind is AdapterKind.lora or embeddings(model) <= saved_whole(model, config.modules_to_save):
        return found
    raise SftError(
        where=f"adapter.kind={config.kind.value}",
        problem=f"the embedding of stop token {found} looks untrained, so the model would never learn to stop,"
        " and single rows are trained beside LoRA only",
        fix="adapter=lora, or a template whose stop token the model knows;"
        " adapter.train_stop_token=never trains anyway",
    )


def check_rows(model: PreTrainedModel, config: AdapterConfig, rows: Collection[int]) -> None:
    """Return if these rows of embedding and head can be trained beside what else ``config`` does with both.

    Raises:
        SftError: Two tied matrices would come apart, a matrix would carry an adapter and single rows, or rows would
            stay as they begin.
    """
    if not rows or config.kind not in MERGEABLE:
        return
    both, saved = embedding_and_head(model), saved_whole(model, config.modules_to_save)
    ends = ",".join(sorted(name.rsplit(".", 1)[-1] for name in both))
    tied = len(embeddings(model)) < len(both)
    if config.kind is not AdapterKind.lora and not both <= saved:
        raise SftError(
            where=f"adapter.kind={config.kind.value}",
            problem=f"rows {list(rows)} of embedding and head are to be learnt, but single rows are trained beside LoRA"
            " only",
            fix=f"adapter.modules_to_save=[{ends}], or adapter=lora",
        )
    if tied and len(both & saved) == 1:
        raise SftError(
            where="adapter.modules_to_save",
            problem=f"rows {list(rows)} are to be learnt by embedding and head, which are one matrix in this model, but"
            f" only {next(iter(both & saved))} would be trained whole",
            fix=f"adapter.modules_to_save=[{ends}], or leave it out: the rows are trained by themselves",
        )
    if adapted := sorted((both - saved) & set(adapted_layers(model, config))):
        whole = ends if tied else adapted[0].rsplit(".", 1)[-1]
        raise SftError(
            where="adapter.target_modules",
            problem=f"{adapted[0]} would carry an adapter, but its rows {list(rows)} are to be trained by themselves",
            fix=f"leave it out of adapter.target_modules, or train it whole: adapter.modules_to_save=[{whole}]",
        )


def embedding_and_head(model: PreTrainedModel) -> set[str]:
    """The names of the input embedding and of the head, whether they share a matrix or not."""
    both = {model.get_input_embeddings(), model.get_output_embeddings()}
    return {name for name, layer in model.named_modules() if layer in both}


def embeddings(model: PreTrainedModel) -> set[str]:
    """The names of the input embedding and, where it has a matrix of its own, of the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    # PEFT follows a tied head by itself; naming it would train a second copy of the row.
    wanted = {embedding} if tied else {embedding, head}
    return {name for name, layer in model.named_modules() if layer in wanted}


def saved_whole(model: PreTrainedModel, modules_to_save: Collection[str]) -> set[str]:
    """Names of the modules that ``adapter.modules_to_save`` matches, by their end."""
    ends = tuple(modules_to_save)
    return {name for name, _ in model.named_modules() if any(name == end or name.endswith(f".{end}") for end in ends)}


def trained_rows(
    model: PreTrainedModel, rows: Sequence[int], modules_to_save: Collection[str] = ()
) -> dict[str, list[int]]:
    """The rows under the names of the matrices that hold them; those trained whole anyway are left out."""
    names = embeddings(model) - saved_whole(model, modules_to_save)
    return {name: list(rows) for name in sorted(names)} if rows else {}


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
