"""The embedding rows of an untrained stop token, and their training in addition to an adapter.

A stop token that pretraining never used as a target has an output row that was only ever pushed away. LoRA on the inner
layers cannot single it out, because all other unused tokens have the same row: the model learns the answers and never
stops. So the rows themselves are trained.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import MERGEABLE, AdapterConfig, AdapterKind, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.model.adapter.targets import adapted_layers

MIN_NEIGHBOURS = 8
"""Near-identical rows that make a row count as untrained."""
NEIGHBOUR_DISTANCE = 0.1
"""Largest distance of near-identical rows, in units of the root-mean-square distance of all rows from their mean."""


def stop_tokens_to_train(model: PreTrainedModel, config: AdapterConfig, stop_ids: Sequence[int]) -> list[int]:
    """Return the stop tokens whose rows are trained.

    Raises:
        SftError: They look untrained and this kind of adapter cannot train rows: the model would never stop.
    """
    if config.train_stop_token is TrainStopToken.never:
        return []
    always = config.train_stop_token is TrainStopToken.always
    found = sorted(set(stop_ids)) if always else untrained_stop_tokens(model, stop_ids)
    if (
        not found
        or config.kind is AdapterKind.lora
        or untied_embedding_names(model) <= fully_trained_modules(model, config.modules_to_save)
    ):
        return found
    raise SftError(
        where=f"adapter.kind={config.kind.value}",
        problem=f"the embedding of stop token {found} looks untrained, so the model would never learn to stop,"
        " and only LoRA can train single rows",
        fix="adapter=lora, or a template whose stop token is trained; adapter.train_stop_token=never trains anyway",
    )


def check_trained_rows(model: PreTrainedModel, config: AdapterConfig, rows: Collection[int]) -> None:
    """Check that these rows of embedding and head can be trained together with everything else in ``config``.

    Raises:
        SftError: Two tied matrices would diverge, a matrix would have both an adapter and single trained rows, or rows
            would keep their initial values.
    """
    if not rows or config.kind not in MERGEABLE:
        return
    pair, saved = embedding_and_head_names(model), fully_trained_modules(model, config.modules_to_save)
    ends = ",".join(sorted(name.rsplit(".", 1)[-1] for name in pair))
    tied = len(untied_embedding_names(model)) < len(pair)
    if config.kind is not AdapterKind.lora and not pair <= saved:
        raise SftError(
            where=f"adapter.kind={config.kind.value}",
            problem=f"rows {list(rows)} of embedding and head must be trained, but only LoRA can train single rows",
            fix=f"adapter.modules_to_save=[{ends}], or adapter=lora",
        )
    if tied and len(pair & saved) == 1:
        raise SftError(
            where="adapter.modules_to_save",
            problem=f"rows {list(rows)} must be trained in embedding and head, which are one matrix in this model, but"
            f" only {next(iter(pair & saved))} would be trained whole",
            fix=f"adapter.modules_to_save=[{ends}], or leave it out: the rows are trained by themselves",
        )
    if adapted := sorted((pair - saved) & set(adapted_layers(model, config))):
        whole = ends if tied else adapted[0].rsplit(".", 1)[-1]
        raise SftError(
            where="adapter.target_modules",
            problem=f"{adapted[0]} would get an adapter, but its rows {list(rows)} must be trained by themselves",
            fix=f"leave it out of adapter.target_modules, or train it whole: adapter.modules_to_save=[{whole}]",
        )


def embedding_and_head_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the input embedding and of the head, whether or not they share a matrix."""
    pair = {model.get_input_embeddings(), model.get_output_embeddings()}
    return {name for name, layer in model.named_modules() if layer in pair}


def untied_embedding_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the input embedding and, if it has a separate matrix, of the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    # PEFT follows a tied head by itself; naming it would train a second copy of the row.
    wanted = {embedding} if tied else {embedding, head}
    return {name for name, layer in model.named_modules() if layer in wanted}


def fully_trained_modules(model: PreTrainedModel, modules_to_save: Collection[str]) -> set[str]:
    """Return the modules whose names end in an entry of ``adapter.modules_to_save``."""
    ends = tuple(modules_to_save)
    return {name for name, _ in model.named_modules() if any(name == end or name.endswith(f".{end}") for end in ends)}


def trainable_token_indices(
    model: PreTrainedModel, rows: Sequence[int], modules_to_save: Collection[str] = ()
) -> dict[str, list[int]]:
    """Return the trained rows by name of their matrix, as PEFT expects them, without fully trained matrices."""
    names = untied_embedding_names(model) - fully_trained_modules(model, modules_to_save)
    return {name: list(rows) for name in sorted(names)} if rows else {}


def untrained_stop_tokens(model: PreTrainedModel, stop_ids: Sequence[int]) -> list[int]:
    """Return the ``stop_ids`` whose row, in the input embedding or the head, looks untrained.

    Softmax pushes the output rows of all tokens that never are a target along one and the same direction, and weight
    decay shrinks what never gets a gradient: never-used rows end up on one spot (Land & Bartolo 2024,
    arXiv:2405.05417, find untrained tokens by closeness to known unused rows). So a row counts as untrained when at
    least ``MIN_NEIGHBOURS`` others are within ``NEIGHBOUR_DISTANCE`` of it, or when it is zero on that scale. In
    stories260k the stop row is 0.0003 from its eighth neighbour and the rows of words are more than 0.3 from theirs.
    Random rows are about 1.4 apart, so no row of a randomly initialised model counts as untrained.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    matrices = [layer.weight.detach() for layer in (embedding, head) if isinstance(layer, nn.Embedding | nn.Linear)]
    # A tied head is the same matrix, and looking twice changes nothing.
    return sorted({row for row in stop_ids for matrix in matrices if is_untrained_row(matrix, row)})


def is_untrained_row(matrix: Tensor, row: int) -> bool:
    """Return whether ``matrix[row]`` is zero or one of many near-identical rows of a ``(vocabulary, width)`` matrix."""
    # Blocks, because a float32 copy of a large vocabulary's matrix is gigabytes.
    blocks = matrix.split(8192)
    mean = torch.stack([block.float().sum(dim=0) for block in blocks]).sum(dim=0) / len(matrix)
    spread = torch.stack([(block.float() - mean).pow(2).sum() for block in blocks]).sum().div(len(matrix)).sqrt()
    row_values = matrix[row].float()
    distances = torch.cat([(block.float() - row_values).norm(dim=1) for block in blocks])
    neighbours = int((distances <= NEIGHBOUR_DISTANCE * spread).sum()) - 1  # it is no twin of itself
    return neighbours >= MIN_NEIGHBOURS or bool(row_values.norm() <= NEIGHBOUR_DISTANCE / 10 * spread)
