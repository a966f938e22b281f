"""One answer, told in pieces of text while it is generated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, TextStreamer

from sft_cli.errors import SftError
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length


class _Telling(TextStreamer):
    """Hands finished pieces of text on instead of printing them."""

    def __init__(self, tokenizer: Any, tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand a piece on."""
        self._tell(text)


def stream(
    model: nn.Module,
    tokenizer: Any,
    prompt: Sequence[int],
    stop_ids: Sequence[int],
    most: int,
    tell: Callable[[str], None],
) -> None:
    """Tell the greedy answer to one prompt, without its stop token.

    Args:
        model: A transformers causal LM or a PEFT model around one; autocast is the caller's.
        tokenizer: What turns its ids into text.
        prompt: Token ids.
        stop_ids: Tokens that end the answer.
        most: Longest answer in tokens, the stop token counted.
        tell: Called with each piece of text.

    Raises:
        SftError: The prompt leaves no room in the model's context.
    """
    with generation_mode(model) as lm:
        limit = model_context_length(lm.config)
        room = most if limit is None else min(most, limit - num_prepended_vectors(model) - len(prompt))
        if room <= 0:
            raise SftError(
                where="sft chat",
                problem=f"the conversation has {len(prompt)} tokens, the model takes {limit}",
                fix="start again with a shorter message",
            )
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=room, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0], use_cache=True
        )
        own, lm.generation_config = lm.generation_config, GenerationConfig()  # it would fill what is unset here
        ids = torch.tensor([list(prompt)], device=lm.device)
        try:
            lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=greedy,
                streamer=_Telling(tokenizer, tell),
            )
        finally:
            lm.generation_config = own
