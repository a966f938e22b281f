"""Streaming generation of one answer, for `sft chat`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, TextStreamer

from sft_cli.errors import SftError
from sft_cli.eval.engine.sampling import SeededSampling
from sft_cli.eval.generate import GenerationSettings
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An answer that was passed on while it was generated.

    Attributes:
        ids: Its token ids, with the stop token.
        cut: Whether it reached ``max_new_tokens``.
        interrupted: Whether Ctrl-C ended it.
    """

    ids: tuple[int, ...]
    cut: bool = False
    interrupted: bool = False


class _CallbackStreamer(TextStreamer):
    """Passes finished pieces of text to a callback instead of printing them, and keeps the ids."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text
        self.ids: list[int] = []

    def put(self, value: Any) -> None:
        """Take the next ids; the first ones are the prompt."""
        if not self.next_tokens_are_prompt:
            self.ids += value.flatten().tolist()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece to the callback."""
        self._on_text(text)


def stream_answer(
    model: nn.Module,
    tokenizer: Any,
    prompt: Sequence[int],
    settings: GenerationSettings,
    on_text: Callable[[str], None],
    seed: int = 0,
) -> StreamedAnswer:
    """Generate the answer to one prompt and pass its text on piece by piece, without the stop token.

    Args:
        model: A transformers causal LM or a PEFT model around one; the caller enters autocast.
        tokenizer: The tokenizer that decodes the ids.
        prompt: Token ids.
        settings: How the answer is generated.
        on_text: Called with each piece of text.
        seed: Seed of the answer, with ``settings.sampling``.

    Raises:
        SftError: The prompt fills the model's context.
    """
    stops, longest = settings.stop_ids, settings.max_new_tokens
    with generation_mode(model) as lm:
        limit, num_vectors = model_context_length(lm.config), num_prepended_vectors(model)
        num_new = longest if limit is None else min(longest, limit - num_vectors - len(prompt))
        if num_new <= 0:
            raise SftError(
                where="sft chat",
                problem=f"the conversation has {len(prompt)} tokens, the model's context {limit}",
                fix="shorten the message, or `/reset`, which starts a new conversation",
            )
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=num_new,
            eos_token_id=list(stops),
            pad_token_id=stops[0],
            use_cache=True,
        )
        # generate() would use the model's own settings for unset values.
        model_settings, lm.generation_config = lm.generation_config, GenerationConfig()
        ids = torch.tensor([list(prompt)], device=lm.device)
        streamer, interrupted = _CallbackStreamer(tokenizer, on_text), False
        noise = [] if settings.sampling is None else [SeededSampling(settings.sampling, [seed])]
        try:
            lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=greedy,
                logits_processor=LogitsProcessorList(noise),
                streamer=streamer,
            )
        except KeyboardInterrupt:
            interrupted = True
            streamer.end()
        finally:
            lm.generation_config = model_settings
    answer = tuple(streamer.ids)
    cut = not interrupted and num_new == longest == len(answer) and answer[-1] not in stops
    return StreamedAnswer(answer, cut, interrupted)
