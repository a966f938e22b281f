"""Log-likelihoods of a plain text by sliding windows."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from sft_cli.eval.engine.choices import continuation_logprobs
from sft_cli.eval.engine.prompts import Continuation
from sft_cli.model.head.loss_model import LossModel
from sft_cli.suites.items import SuiteItem

WINDOW = 1024
"""Tokens of a window if none is set."""
PARTS_PER_PLAN = 64
"""Parts that are packed together, and after which their lines are written."""


def part_records(
    loss_model: LossModel,
    tokenizer: Any,
    parts: Sequence[SuiteItem],
    missing: Sequence[SuiteItem],
    *,
    window: int,
    stride: int,
    max_tokens: int,
) -> Generator[list[dict[str, Any]], None, None]:
    """Yield the lines of the missing parts of a text, some at a time.

    Every token is predicted once, at most ``stride`` of them from one window, after at least ``window - stride``
    earlier tokens where the text has them. The text is encoded as a whole, without a chat template; a token belongs to
    the part in which it begins. The first token is not counted, since nothing precedes it, unless the tokenizer writes
    a beginning-of-text token.

    Args:
        loss_model: The model; the caller enters autocast.
        tokenizer: The tokenizer of transformers.
        parts: All parts of the text, in order.
        missing: Those to compute.
        window: Largest number of tokens of a window, with its context.
        stride: Most tokens that are predicted in one window.
        max_tokens: Largest number of tokens of a packed row.
    """
    texts = [str(entry.item.messages[-1]["content"]) for entry in parts]
    encoded = tokenizer("".join(texts), add_special_tokens=False, return_offsets_mapping=True)
    added = tokenizer("")["input_ids"]
    start = tuple(added[:1]) if added and added[0] == tokenizer.bos_token_id else ()
    ids, offsets = (*start, *encoded["input_ids"]), [begin for begin, _ in encoded["offset_mapping"]]
    begins = np.cumsum([0, *map(len, texts)])
    edges = len(start) + np.searchsorted(offsets, begins)
    unscored = 0 if start or len(offsets) < 2 else len("".join(texts)[: offsets[1]].encode())
    places = {entry.item.id: number for number, entry in enumerate(parts)}
    for first in range(0, len(missing), PARTS_PER_PLAN):
        chosen = [places[entry.item.id] for entry in missing[first : first + PARTS_PER_PLAN]]
        spans = [(max(int(edges[number]), 1), int(edges[number + 1])) for number in chosen]
        windows = [_windows(ids, *span, window, stride) for span in spans]
        flat = [one for found in windows for one in found]
        logprobs = iter(continuation_logprobs(loss_model, flat, max_tokens) if flat else [])
        yield [
            {
                "id": parts[number].item.id,
                "sample": 0,
                "cluster": "",
                "tags": {},
                "prompt": texts[number],
                "answer": "",
                "reasoning": "",
                "stopped": True,
                "num_tokens": 0,
                "nats": -sum(next(logprobs) for _ in found),
                "scored_tokens": max(0, end - begin),
                "scored_bytes": len(texts[number].encode()) - (unscored if number == 0 else 0),
            }
            for number, (begin, end), found in zip(chosen, spans, windows, strict=True)
        ]


def _windows(ids: Sequence[int], begin: int, end: int, window: int, stride: int) -> list[Continuation]:
    """Return the windows that predict the tokens from ``begin`` to before ``end``."""
    found = []
    for first in range(begin, end, stride):
        last = min(first + stride, end)
        found.append(Continuation(tuple(ids[max(0, last - window) : first]), tuple(ids[first:last])))
    return found
