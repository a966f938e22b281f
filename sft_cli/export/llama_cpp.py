"""Check a GGUF file with llama-cpp-python: the ids of texts, and greedy answers against those of transformers."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
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
ERROR_LEVEL = 4
"""Level of errors in llama.cpp's log."""


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


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Collect the error messages of llama.cpp in the block instead of printing them."""
    api, logger = import_module("llama_cpp"), import_module("llama_cpp._logger")
    messages: list[str] = []

    @api.llama_log_callback
    def collect(level: int, text: bytes, _: Any) -> None:
        if level == ERROR_LEVEL:
            messages.append(text.decode("utf-8", errors="replace").strip())

    api.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield messages
    finally:
        api.llama_log_set(logger.llama_log_callback, ctypes.c_void_p(0))


def _unreadable(file: Path, messages: Sequence[str]) -> SftError:
    reason = f": {messages[0]}" if messages else ""
    return SftError(
        where=str(file),
        problem=f"llama.cpp cannot open the file{reason}",
        fix="export it again, or serve the merged model: sft export RUN --to merged",
    )


class GgufVocabulary:
    """The vocabulary of a GGUF file, as llama.cpp reads it; no weights are loaded.

    Raises:
        SftError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        settings = self._api.llama_model_default_params()
        settings.vocab_only = True
        with collected_errors() as messages:
            self._model = self._api.llama_model_load_from_file(str(file).encode(), settings)
        if not self._model:
            raise _unreadable(file, messages)
        self._vocabulary = self._api.llama_model_get_vocab(self._model)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are read as such; none are added."""
        data = text.encode()
        size = len(data) + 16
        ids = (self._api.llama_token * size)()
        number = self._api.llama_tokenize(self._vocabulary, data, len(data), ids, size, False, True)
        assert number >= 0, "a token has at least one byte"
        return list(ids[:number])

    def is_end(self, id: int) -> bool:
        """Return whether llama.cpp ends an answer at a token."""
        return bool(self._api.llama_vocab_is_eog(self._vocabulary, id))

    def close(self) -> None:
        """Free the model."""
        self._api.llama_model_free(self._model)

    def wrong_ids(self, cases: Sequence[TextCase]) -> list[str]:
        """Return a sentence for each text that llama.cpp encodes to other ids."""
        return [
            f"{case.where}: {first_difference(ids, case.ids)}"
            for case in cases
            if (ids := self.encode(case.text)) != case.ids
        ]


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
    load_model = import_module("llama_cpp").Llama
    longest = max(map(len, prompts)) + NEW_TOKENS
    with collected_errors() as messages:
        try:
            opened = load_model(str(file), n_ctx=longest, n_threads=torch.get_num_threads(), verbose=False)
        except (ValueError, AssertionError) as error:
            raise _unreadable(file, messages) from error
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
    """Return how much likelier, in nats, transformers finds its own token where it first disagrees; None if never."""
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
