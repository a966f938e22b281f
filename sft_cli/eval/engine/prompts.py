"""Token ids of prompts and continuations, exactly as a server encodes them, and as lm-evaluation-harness does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.config.schema.suites import SuiteFormat
from sft_cli.errors import SftError
from sft_cli.suites.items import ANSWER_SEPARATOR, SuiteItem

MAX_SHOWN = 200
"""Most characters of an error of a template."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text that follows a context.

    Attributes:
        context: Ids of the context.
        ids: Ids of the continuation; at least one.
        merged: Whether the ids of the whole text do not begin with those of the context, because a token spans the
            join or the template writes the context otherwise; the continuation is then encoded alone.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    merged: bool = False


class ServedPrompts:
    """Encodes the conversations of a run as a server does."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], variables: Mapping[str, Any]) -> None:
        """Create the encoder.

        Args:
            tokenizer: From ``server.load_server_tokenizer``.
            stop_ids: Tokens that end an answer.
            variables: ``template.variables``.
        """
        self.tokenizer, self._stops, self._variables = tokenizer, frozenset(stop_ids), dict(variables)
        added = tokenizer("")["input_ids"]
        self._start = tuple(added[:1]) if added and added[0] == tokenizer.bos_token_id else ()

    def prompt_text(self, entry: SuiteItem, format: SuiteFormat) -> str:
        """Return the text of a prompt."""
        if format is SuiteFormat.text:
            return str(entry.item.messages[-1]["content"])
        return str(self._render(entry, list(entry.item.messages), prompt=True, tokenize=False))

    def prompt_ids(self, entry: SuiteItem, format: SuiteFormat) -> tuple[int, ...]:
        """Return the ids of a prompt: with the template, or of the text alone with the tokenizer's special tokens.

        Raises:
            SftError: The template refuses the conversation.
        """
        if format is SuiteFormat.text:
            return tuple(self.tokenizer(self.prompt_text(entry, format))["input_ids"])
        return tuple(self._render(entry, list(entry.item.messages), prompt=True, tokenize=True))

    def continuations(self, entry: SuiteItem, format: SuiteFormat) -> list[Continuation]:
        """Return the choices of an item as the model would generate them, without the stop token.

        The ids of a choice are those of the rendered conversation with the choice as its answer, minus the ids of the
        prompt.
        """
        context = self.prompt_ids(entry, format)
        return [self._continuation(entry, format, context, choice) for choice in entry.choices]

    def lm_eval_continuations(self, entry: SuiteItem, format: SuiteFormat) -> list[Continuation]:
        """Return the choices as lm-evaluation-harness encodes them (``_encode_pair``).

        White space at the end of the context belongs to the continuation; the continuation of a chat prompt is the
        plain text of the choice. The tokenizer adds its first token, also to a chat prompt, unless the text has it.
        """
        context = self.prompt_text(entry, format)
        separator = ANSWER_SEPARATOR if format is SuiteFormat.text else ""
        return [self.lm_eval_continuation(context, f"{separator}{choice}") for choice in entry.choices]

    def lm_eval_continuation(self, context: str, text: str) -> Continuation:
        """Return a text after a context as lm-evaluation-harness encodes them."""
        moved = context[len(context.rstrip()) :]
        head = context.removesuffix(moved)
        head_ids = self._with_special_tokens(head)
        ids = self._with_special_tokens(head + moved + text)[len(head_ids) :]
        return Continuation(head_ids, ids or self._plain(moved + text), merged=not ids)

    def lm_eval_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a prompt as lm-evaluation-harness encodes it."""
        return self._with_special_tokens(text)

    def chat_text(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return the text of a conversation; without a generation prompt, its last message is continued."""
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._variables,
            )
        )

    def _continuation(
        self, entry: SuiteItem, format: SuiteFormat, context: tuple[int, ...], choice: str
    ) -> Continuation:
        if format is SuiteFormat.text:
            text = ANSWER_SEPARATOR + choice
            whole = tuple(self.tokenizer(self.prompt_text(entry, format) + text)["input_ids"])
            closing = tuple(self.tokenizer("")["input_ids"])[len(self._start) :]  # a tokenizer may add a last token
            whole = whole[: len(whole) - len(closing)] if closing else whole
            context = context[: len(context) - len(closing)] if closing else context
        else:
            text = choice
            answer = {"role": "assistant", "content": choice}
            whole = tuple(self._render(entry, [*entry.item.messages, answer], prompt=False, tokenize=True))
        if whole[: len(context)] == context and (ids := self._before_stop(whole[len(context) :])):
            return Continuation(context, ids)
        return Continuation(context, self._plain(text), merged=True)

    def _before_stop(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids before the first stop token."""
        end = next((index for index, id in enumerate(ids) if id in self._stops), len(ids))
        return ids[:end]

    def _with_special_tokens(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text with the tokenizer's special tokens, unless it begins with the first of them."""
        has_start = bool(self._start) and text.startswith(self.tokenizer.decode(list(self._start)))
        return self._plain(text) if has_start else tuple(self.tokenizer(text)["input_ids"])

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _render(self, entry: SuiteItem, messages: list[Mapping[str, Any]], *, prompt: bool, tokenize: bool) -> Any:
        """Return the text or the ids of a conversation."""
        tools = None if entry.tools is None else list(entry.tools)
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                add_generation_prompt=prompt,
                tokenize=tokenize,
                return_dict=False,
                **self._variables,
            )
        except Exception as error:  # a template is someone else's program
            reason = (str(error) or type(error).__name__).splitlines()[0][:MAX_SHOWN]
            raise SftError(
                where=entry.where,
                problem=f"the chat template refuses the item: {reason}",
                fix="eval.suites.NAME.format=text, or remove the suite",
            ) from error
