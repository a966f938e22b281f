"""Content tokens: special tokens that an assistant may write, encoded as single ids in its content and reasoning.

They are the control tokens among ``model.add_tokens`` and those listed in ``data.content_tokens``. In all other texts,
and for all other special tokens, the string is encoded as plain text: no text of a user becomes a control token.
"""

from collections.abc import Sequence
from dataclasses import replace

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.errors import SftError, raise_all

CONTENT_TOKENS_KEY = "data.content_tokens"
_PROBE = [{"role": role, "content": "Hi"} for role in ("system", "user", "assistant", "user")]


def with_content_tokens(
    tokenizer: ChatTokenizer, template: ChatTemplate, added: Sequence[str], listed: Sequence[str]
) -> ChatTokenizer:
    """Return the tokenizer with the content tokens set.

    Args:
        tokenizer: The tokenizer, with the tokens in its vocabulary.
        template: The chat template; tokens that it writes itself are never content.
        added: ``model.add_tokens``.
        listed: ``data.content_tokens``.

    Raises:
        SftError: A listed token is not a special token, or the template writes it itself.
    """
    raise_all([error for token in listed if (error := _find_error(tokenizer, template, token)) is not None])
    allowed = [*allowed_content_tokens(tokenizer, template, added), *listed]
    return replace(tokenizer, content_tokens=tuple(dict.fromkeys(allowed)))


def allowed_content_tokens(tokenizer: ChatTokenizer, template: ChatTemplate, tokens: Sequence[str]) -> list[str]:
    """Return the tokens that are special and that the template does not write itself."""
    return [
        token for token in tokens if token in tokenizer.control_tokens and not _is_written(tokenizer, template, token)
    ]


def _find_error(tokenizer: ChatTokenizer, template: ChatTemplate, token: str) -> SftError | None:
    """Return the error for a listed token, or None."""
    if tokenizer.backend.token_to_id(token) is None:
        problem = f"{token!r} is not a token of the tokenizer"
        fix = "correct it, or add it to the vocabulary with model.add_tokens instead"
    elif token not in tokenizer.control_tokens:
        problem = f"{token!r} is an ordinary token, which is a single id in every text"
        fix = "remove it: it is trained like other text"
    elif _is_written(tokenizer, template, token):
        problem = f"{token!r} is a token that the template or the tokenizer writes itself"
        fix = "remove it: in messages it is encoded as plain text"
    else:
        return None
    return SftError(where=CONTENT_TOKENS_KEY, problem=problem, fix=fix)


def _is_written(tokenizer: ChatTokenizer, template: ChatTemplate, token: str) -> bool:
    """Return whether the template, or the tokenizer around a plain text, writes a token."""
    if token in tokenizer.special_tokens.values():
        return True
    for chat_template in (template, template.for_tools):
        if token in chat_template.source:
            return True
        for messages in (_PROBE, _PROBE[1:]):
            try:
                if token in chat_template.render(messages, None, prompt=True):
                    return True
            except RenderError:  # some templates support no system message
                continue
    return False
