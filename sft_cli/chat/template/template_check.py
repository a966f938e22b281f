"""Check that a template can be used for training with a tokenizer, and find the packaged templates that can."""

from collections.abc import Callable

from sft_cli.chat.encode import Encoder, MaskNotProven
from sft_cli.chat.masks.sentinels import SentinelMarker
from sft_cli.chat.masks.serving_text import text_missing_from_prompt
from sft_cli.chat.masks.spans import SpanFinder
from sft_cli.chat.masks.stop_tokens import StopTokenFinder
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.conversation_features import EXAMPLE_TOOL, ConversationFeatures, describe_features
from sft_cli.chat.template.loading import load_template, packaged_templates
from sft_cli.chat.template.normalize import normalize_conversation, rule_errors
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Message

PROBES = tuple(
    Conversation((Message("user", "Hi"), Message("assistant", answer)), "a one-turn conversation", "", tools)
    for answer, tools in (
        ("Hello", None),
        ("<think>\nThey greet me.\n</think>\n\nHello", None),
        ("Hello", (EXAMPLE_TOOL,)),
    )
)
"""Conversations of which a template must support at least one: some templates are only for reasoning or for tools."""
_OWN_TEMPLATE_FIX = "choose a template file whose answers end in a special token: template.path=FILE.jinja"


class TemplateCheck:
    """Try one template with one tokenizer on short conversations.

    Args:
        tokenizer: The tokenizer.
        template: The chat template.
        data: The data config of the run.

    Raises:
        SftError: The rules of the data config contradict each other.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: ChatTemplate, data: DataConfig) -> None:
        raise_all(rule_errors(data))
        self._tokenizer, self._template, self._data = tokenizer, template, data
        self._encoder = Encoder(tokenizer)
        self._fitting_by_features: dict[frozenset[ConversationFeatures], list[str]] = {}

    def check(self, find_features: Callable[[], frozenset[ConversationFeatures]] = frozenset) -> None:
        """Reject a template that cannot be used for training.

        Args:
            find_features: Returns the features of the rows, for advice.
        """
        problems = [self._problem(probe) for probe in PROBES]
        if None not in problems:  # the reason is that of the plainest conversation
            raise SftError(where=self._template.label, problem=str(problems[0]), fix=self.suggestion(find_features()))
        probe = PROBES[problems.index(None)]
        template = self._template_for(probe)
        stop_token_finder = StopTokenFinder(template, SentinelMarker(self._tokenizer, self._data.sanitize))
        if missing := text_missing_from_prompt(template, stop_token_finder, probe):
            raise SftError(
                where=self._template.label,
                problem="it ignores add_generation_prompt: no server's prompt would contain"
                f" the {missing!r} before an answer",
                fix="write it at the template's end, inside {% if add_generation_prompt %}…{% endif %}",
            )

    def suggestion(self, features: frozenset[ConversationFeatures]) -> str:
        """Return advice: the templates that fit the tokenizer and the rows, or a template file of the user's."""
        if names := self.fitting_templates(features):
            fits = " and the rows" if features else ""
            return f"choose one that fits this tokenizer{fits}: template={', '.join(names)}"
        if not (needs := describe_features(features)):
            return _OWN_TEMPLATE_FIX
        return f"choose a template that renders these parts of the rows ({needs}): template.path=FILE.jinja"

    def fitting_templates(self, features: frozenset[ConversationFeatures]) -> list[str]:
        """Return the other templates that support such rows: the tokenizer's own (``auto``) and the packaged ones."""
        if features not in self._fitting_by_features:
            self._fitting_by_features[features] = [
                name for name in ("auto", *packaged_templates()) if self._fits(name, features)
            ]
        return self._fitting_by_features[features]

    def _fits(self, name: str, features: frozenset[ConversationFeatures]) -> bool:
        """Return whether another template works with this tokenizer and supports the features of the rows."""
        try:
            template = load_template(TemplateConfig(name=name), self._tokenizer)
        except SftError:
            return False
        if template.source == self._template.source:
            return False
        other = TemplateCheck(self._tokenizer, template, self._data)
        can_teach = any(other._problem(probe) is None for probe in PROBES)
        return can_teach and all(other._problem(row_features.example()) is None for row_features in features)

    def _template_for(self, conversation: Conversation) -> ChatTemplate:
        """Return the template for a conversation: a tokenizer may have a separate one for tools."""
        return self._template.for_tools if conversation.tools else self._template

    def _problem(self, probe: Conversation) -> RenderError | MaskNotProven | None:
        """Return the error of encoding a conversation whose whole answer carries loss, or None."""
        span_finder = SpanFinder(self._template_for(probe), self._tokenizer, DataConfig())
        try:
            result = self._encoder.encode(
                span_finder.render(normalize_conversation(probe, DataConfig(thinking=self._data.thinking)))
            )[0]
        except RenderError as error:
            return error
        return result if isinstance(result, MaskNotProven) else None
