"""Special tokens that an assistant may write itself: single, trained ids inside its content and reasoning.

They are the control tokens among ``model.add_tokens`` and those named in ``data.content_tokens``. In all other texts,
and for all other special tokens everywhere, the string stays plain text: nothing that a user writes becomes control.
"""

from collections.abc import Sequence
from dataclasses import replace

from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.errors import SftError, raise_all

KEY = "data.content_tokens"
_TALK = [{"role": role, "content": "Hi"} for role in ("system", "user", "assistant", "user")]


def with_content_tokens(
    tokenizer: ChatTokenizer, template: ChatTemplate, added: Sequence[str], listed: Sequence[str]
) -> ChatTokenizer:
    """The tokenizer with the special tokens that are single ids inside what an assistant writes.

    Args:
        tokenizer: Has the tokens in its vocabulary already.
        template: The chat template; what it writes itself is never content.
        added: ``model.add_tokens``.
        listed: ``data.content_tokens``.

    Raises:
        SftError: A listed token is none, needs no listing, or is the template's.
    """
    raise_all([mistake for token in listed if (mistake := _mistake(tokenizer, template, token)) is not None])
    found = [*of_content(tokenizer, template, added), *listed]
    return replace(tokenizer, content_tokens=tuple(dict.fromkeys(found)))


def of_content(tokenizer: ChatTokenizer, template: ChatTemplate, tokens: Sequence[str]) -> list[str]:
    """Those of the tokens that are special and that the template does not write itself."""
    return [token for token in tokens if token in tokenizer.control and not _written(tokenizer, template, token)]


def _mistake(tokenizer: ChatTokenizer, template: ChatTemplate, token: str) -> SftError | None:
    """What is wrong with a listed token."""
    if tokenizer.backend.token_to_id(token) is None:
        problem = f"{token!r} is no token of the tokenizer"
        fix = "correct it, or add it to the vocabulary with model.add_tokens instead"
    elif token not in tokenizer.control:
        problem = f"{token!r} is an ordinary token, which is a single id wherever a text holds it"
        fix = "leave it out: it is trained as it is"
    elif _written(tokenizer, template, token):
        problem = f"{token!r} is a token that the template or the tokenizer writes itself"
        fix = "leave it out: in messages it is encoded as plain text"
    else:
        return None
    return SftError(where=KEY, problem=problem, fix=fix)


def _written(tokenizer: ChatTokenizer, template: ChatTemplate, token: str) -> bool:
    """Whether the template, or the tokenizer around a plain text, writes a token."""
    if token in tokenizer.special_tokens.values():
        return True
    for one in (template, template.for_tools):
        if token in one.source:
            return True
        for messages in (_TALK, _TALK[1:]):
            try:
                if token in one.render(messages, None, prompt=True):
                    return True
            except TemplateRefusal:  # some know no system message
                continue
    return False
