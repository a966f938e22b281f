"""A training loop by hand with transformers and PEFT: packed rows, logits at trained positions only."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from train_work import Result

Row = dict[str, list[int]]


def train_by_hand(work: dict[str, Any], model: Any, rows: list[Row], half: bool, born: float) -> Result:
    """Train over all rows in their order and return the result.

    Args:
        work: The settings, as bench_train.py writes them.
        model: The PEFT model.
        rows: ``input_ids`` and ``labels``.
        half: Whether it computes in bfloat16, by autocast.
        born: When the process began.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model.to(device).train()
    if work["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work["lr"], weight_decay=0.0, fused=cuda)
    seconds, losses, counts, first = [], [], [], 0.0
    for at in range(0, len(rows), work["examples"]):
        began, step = time.perf_counter(), rows[at : at + work["examples"]]
        total = sum(label != -100 for row in step for label in row["labels"])
        loss = torch.zeros((), device=device)
        for ids, positions, read, targets in packed(step, work["budget"], device):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = model(input_ids=ids, position_ids=positions, logits_to_keep=read, use_cache=False).logits
            part = cross_entropy(logits[0].float(), targets, reduction="sum") / total
            part.backward()
            loss += part.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        counts.append((sum(len(row["input_ids"]) for row in step), total))
        first = first or time.perf_counter() - born
    warm = work["warm"]
    return Result(
        seconds=seconds[warm:],
        tokens=[count[0] for count in counts[warm:]],
        trained=[count[1] for count in counts[warm:]],
        losses=losses,
        peak=torch.cuda.max_memory_allocated() if cuda else 0,
        reserved=torch.cuda.max_memory_reserved() if cuda else 0,
        start=first,
    )


def packed(rows: list[Row], budget: int, device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield packed rows of at most ``budget`` tokens: ids, positions, the positions read, and their targets."""
    groups: list[list[Row]] = [[]]
    for row in rows:
        if groups[-1] and sum(len(one["input_ids"]) for one in [*groups[-1], row]) > budget:
            groups.append([])
        groups[-1].append(row)
    for group in groups:
        ids = torch.tensor([token for row in group for token in row["input_ids"]])
        positions = torch.cat([torch.arange(len(row["input_ids"])) for row in group])
        labels = torch.tensor([label for row in group for label in [*row["labels"][1:], -100]])
        read = (labels != -100).nonzero()[:, 0]
        yield tuple(part.to(device) for part in (ids[None], positions[None], read, labels[read]))
