"""Train the embedding rows of an untrained stop token in addition to an adapter.

If pretraining never used a stop token as a target, its output row is nearly equal to those of all other unused tokens.
LoRA on the inner layers cannot make it more likely than those: the model learns the answers but never stops. So the
rows themselves are trained.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import MERGEABLE, AdapterConfig, AdapterKind, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.model.adapter.targets import adapted_layers

MIN_NEIGHBORS = 8
"""Number of nearly identical rows from which a row counts as untrained."""
NEIGHBOR_DISTANCE = 0.1
"""Largest distance between nearly identical rows, in units of the root-mean-square distance of rows from their mean."""


def stop_tokens_to_train(model: PreTrainedModel, config: AdapterConfig, stop_ids: Sequence[int]) -> list[int]:
    """Return the stop tokens whose rows must be trained.

    Raises:
        SftError: A row looks untrained, and this kind of adapter cannot train rows: the model would never stop.
    """
    if config.train_stop_token is TrainStopToken.never:
        return []
    always = config.train_stop_token is TrainStopToken.always
    stop_tokens = sorted(set(stop_ids)) if always else untrained_stop_tokens(model, stop_ids)
    if (
        not stop_tokens
        or config.kind is AdapterKind.lora
        or untied_embedding_names(model) <= fully_trained_modules(model, config.modules_to_save)
    ):
        return stop_tokens
    raise SftError(
        where=f"adapter.kind={config.kind.value}",
        problem=f"the embedding of stop token {stop_tokens} looks untrained, so the model would never learn to stop,"
        " and only LoRA can train single rows",
        fix="adapter=lora, or a template with a trained stop token; adapter.train_stop_token=never skips this check",
    )


def check_trained_rows(model: PreTrainedModel, config: AdapterConfig, rows: Collection[int]) -> None:
    """Check that single rows of embedding and head can be trained together with the adapter.

    Raises:
        SftError: Tied matrices would diverge, a matrix would have both an adapter and trained rows, or this kind of
            adapter cannot train rows.
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
            f" only {next(iter(pair & saved))} would be fully trained",
            fix=f"adapter.modules_to_save=[{ends}], or remove it: then only the rows are trained",
        )
    if adapted := sorted((pair - saved) & set(adapted_layers(model, config))):
        whole = ends if tied else adapted[0].rsplit(".", 1)[-1]
        raise SftError(
            where="adapter.target_modules",
            problem=f"{adapted[0]} would get an adapter, but its rows {list(rows)} must be trained directly",
            fix=f"remove it from adapter.target_modules, or train it fully: adapter.modules_to_save=[{whole}]",
        )


def embedding_and_head_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the input embedding and of the head, whether or not they share a matrix."""
    pair = {model.get_input_embeddings(), model.get_output_embeddings()}
    return {name for name, layer in model.named_modules() if layer in pair}


def untied_embedding_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the input embedding and, if it has a separate matrix, of the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    # PEFT handles a tied head itself; naming it would train a second copy of the row.
    modules = {embedding} if tied else {embedding, head}
    return {name for name, layer in model.named_modules() if layer in modules}


def fully_trained_modules(model: PreTrainedModel, modules_to_save: Collection[str]) -> set[str]:
    """Return the modules whose names end in an entry of ``adapter.modules_to_save``."""
    ends = tuple(modules_to_save)
    return {name for name, _ in model.named_modules() if any(name == end or name.endswith(f".{end}") for end in ends)}


def trainable_token_indices(
    model: PreTrainedModel, rows: Sequence[int], modules_to_save: Collection[str] = ()
) -> dict[str, list[int]]:
    """Return the trained rows by the name of their matrix, as PEFT expects them, without fully trained ones."""
    names = untied_embedding_names(model) - fully_trained_modules(model, modules_to_save)
    return {name: list(rows) for name in sorted(names)} if rows else {}


def untrained_stop_tokens(model: PreTrainedModel, stop_ids: Sequence[int]) -> list[int]:
    """Return the ``stop_ids`` whose row, in the input embedding or the head, looks untrained.

    Softmax moves the output rows of all tokens that are never a target in the same direction, and weight decay shrinks
    rows that never get a gradient, so unused rows become nearly equal (Land & Bartolo 2024, arXiv:2405.05417, find
    untrained tokens by their distance to known unused rows). A row counts as untrained if at least ``MIN_NEIGHBORS``
    other rows are within ``NEIGHBOR_DISTANCE`` of it, or if it is close to zero on that scale. In stories260k the
    distance to the eighth neighbor is 0.0003 for the stop row and above 0.3 for the rows of words. Random rows are
    about 1.4 apart, so no row of a randomly initialized model counts as untrained.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    matrices = [layer.weight.detach() for layer in (embedding, head) if isinstance(layer, nn.Embedding | nn.Linear)]
    # A tied head is the same matrix; checking it twice changes nothing.
    return sorted({row for row in stop_ids for matrix in matrices if is_untrained_row(matrix, row)})


def is_untrained_row(matrix: Tensor, row: int) -> bool:
    """Return whether ``matrix[row]`` is close to zero or one of many nearly equal rows of ``(vocabulary, width)``."""
    # In blocks, because a float32 copy of the matrix of a large vocabulary takes gigabytes.
    blocks = matrix.split(8192)
    mean = torch.stack([block.float().sum(dim=0) for block in blocks]).sum(dim=0) / len(matrix)
    spread = torch.stack([(block.float() - mean).pow(2).sum() for block in blocks]).sum().div(len(matrix)).sqrt()
    row_values = matrix[row].float()
    distances = torch.cat([(block.float() - row_values).norm(dim=1) for block in blocks])
    neighbors = int((distances <= NEIGHBOR_DISTANCE * spread).sum()) - 1  # not the row itself
    return neighbors >= MIN_NEIGHBORS or bool(row_values.norm() <= NEIGHBOR_DISTANCE / 10 * spread)
