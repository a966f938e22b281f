"""Streaming generation of one answer, for `sft chat`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, TextStreamer

from sft_cli.errors import SftError
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length


class _CallbackStreamer(TextStreamer):
    """Passes finished pieces of text to a callback instead of printing them."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece to the callback."""
        self._on_text(text)


def stream_answer(
    model: nn.Module,
    tokenizer: Any,
    prompt: Sequence[int],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    on_text: Callable[[str], None],
) -> bool:
    """Generate the greedy answer to one prompt and pass its text on piece by piece, without the stop token.

    Returns:
        Whether the answer was cut at ``max_new_tokens``.

    Args:
        model: A transformers causal LM or a PEFT model around one; the caller enters autocast.
        tokenizer: The tokenizer that decodes the ids.
        prompt: Token ids.
        stop_ids: Tokens that end the answer.
        max_new_tokens: Largest number of tokens of the answer, including its stop token.
        on_text: Called with each piece of text.

    Raises:
        SftError: The prompt fills the model's context.
    """
    with generation_mode(model) as lm:
        limit, num_vectors = model_context_length(lm.config), num_prepended_vectors(model)
        num_new = max_new_tokens if limit is None else min(max_new_tokens, limit - num_vectors - len(prompt))
        if num_new <= 0:
            raise SftError(
                where="sft chat",
                problem=f"the conversation has {len(prompt)} tokens, the model's context {limit}",
                fix="shorten the message, or `/clear`, which starts a new conversation",
            )
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=num_new,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
            use_cache=True,
        )
        # generate() would use the model's own settings for unset values.
        model_settings, lm.generation_config = lm.generation_config, GenerationConfig()
        ids = torch.tensor([list(prompt)], device=lm.device)
        try:
            output = lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=greedy,
                streamer=_CallbackStreamer(tokenizer, on_text),
            )
        finally:
            lm.generation_config = model_settings
    return num_new == max_new_tokens == output.shape[1] - len(prompt) and int(output[0, -1]) not in stop_ids
