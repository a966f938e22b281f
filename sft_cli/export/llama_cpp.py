"""Check a GGUF file with llama-cpp-python: the ids of texts, and greedy answers against those of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft_cli.chat.template.server import first_difference
from sft_cli.errors import SftError
from sft_cli.export.references import TextCase

MAX_GAP = {"f32": 1e-3, "bf16": 0.15, "f16": 0.05, "q8_0": 0.5}
"""Largest difference, in nats, between two next tokens for which one answer may have the other's token."""
NEW_TOKENS = 24


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """Greedy answers of a GGUF file, compared with those of the transformers model.

    Attributes:
        equal: Answers with the same ids.
        rounding: Answers that differ from a token on that transformers found almost as likely.
        total: Answers.
        worst_gap: Largest gap in nats at the first difference of an answer.
    """

    equal: int
    rounding: int
    total: int
    worst_gap: float


def is_installed() -> bool:
    """Return whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


def open_gguf(file: Path, *, vocabulary_only: bool, context: int = 0) -> Any:
    """Return a GGUF file opened by llama.cpp.

    Args:
        file: The file.
        vocabulary_only: Whether to load no weights.
        context: Number of tokens of the context; 0 means that of the model.

    Raises:
        SftError: llama.cpp cannot open it.
    """
    from llama_cpp import Llama

    options = {"n_ctx": context, "n_threads": torch.get_num_threads(), "verbose": False}
    try:
        return Llama(str(file), vocab_only=vocabulary_only, **options)
    except (ValueError, AssertionError) as error:
        raise SftError(
            where=str(file),
            problem=f"llama.cpp cannot open the file: {error}",
            fix="export it again, or serve the merged model: sft export RUN --to merged",
        ) from error


def wrong_ids(opened: Any, cases: Sequence[TextCase]) -> list[str]:
    """Return a sentence for each text that llama.cpp encodes to other ids."""
    wrong = []
    for case in cases:
        ids = opened.tokenize(case.text.encode(), add_bos=False, special=True)
        if ids != case.ids:
            wrong.append(f"{case.where}: {first_difference(ids, case.ids)}")
    return wrong


def ends_answer(opened: Any, ids: Sequence[int]) -> list[int]:
    """Return the stop ids at which llama.cpp does not end an answer."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(opened.model)
    return [id for id in ids if not llama_cpp.llama_vocab_is_eog(vocabulary, id)]


def compare_answers(file: Path, model: Any, prompts: Sequence[list[int]], stops: Sequence[int]) -> list[float | None]:
    """Generate greedily with llama.cpp and return, for each prompt, how far transformers disagrees.

    Args:
        file: The GGUF file.
        model: The same model in transformers.
        prompts: The ids of the prompts.
        stops: Ids that end an answer.

    Returns:
        None for an answer that transformers gives too; otherwise the difference in nats, at the first token that
        differs, between the token of transformers and that of llama.cpp.
    """
    longest = max(map(len, prompts)) + NEW_TOKENS
    opened = open_gguf(file, vocabulary_only=False, context=longest)
    gaps: list[float | None] = []
    for prompt in prompts:
        answer = greedy(opened, prompt, stops)
        gaps.append(first_gap(model, prompt, answer))
    opened.close()
    return gaps


def greedy(opened: Any, prompt: list[int], stops: Sequence[int]) -> list[int]:
    """Return the greedy answer of llama.cpp, with the stop token."""
    answer: list[int] = []
    for token in opened.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        answer.append(token)
        if token in stops or len(answer) == NEW_TOKENS:
            return answer
    return answer


@torch.no_grad()
def first_gap(model: Any, prompt: list[int], answer: list[int]) -> float | None:
    """Return how much more likely, in nats, transformers finds its own token where it first disagrees; None if never."""
    row = torch.tensor([prompt + answer], device=model.device)
    logits: Tensor = model(row).logits[0, len(prompt) - 1 : -1].float().log_softmax(dim=-1)
    best = logits.max(dim=-1)
    chosen = logits.gather(1, row[0, len(prompt) :, None]).squeeze(1)
    differing = (best.indices != row[0, len(prompt) :]).nonzero()
    return (best.values - chosen)[differing[0, 0]].item() if len(differing) else None


def summarize(gaps: Sequence[float | None], dtype: str) -> AnswerReport:
    """Count equal answers and those that differ by rounding alone."""
    found = [gap for gap in gaps if gap is not None]
    rounding = sum(gap <= MAX_GAP[dtype] for gap in found)
    return AnswerReport(len(gaps) - len(found), rounding, len(gaps), max(found, default=0.0))
