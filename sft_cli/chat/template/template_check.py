"""Whether a template can teach a tokenizer's model to answer, and which of the named templates can."""

from collections.abc import Callable

from sft_cli.chat.encode import Encoder, Unproven
from sft_cli.chat.masks.spans import Renderer
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal, load_template, named_templates
from sft_cli.chat.template.conversation_features import TOOL, Holds, together
from sft_cli.chat.template.normalize import mistakes, shaped
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
        ("Hello", (TOOL,)),
    )
)
"""Conversations of which a template must be able to teach one: some are for reasoning or for tools alone."""
_NO_TEMPLATE = "name a template of your own whose answers end in a special token: template.path=FILE.jinja"


class TemplateCheck:
    """Tries one template with one tokenizer on short conversations.

    Args:
        tokenizer: Makes the ids.
        template: Lays out conversations.
        data: The rules of the run.

    Raises:
        SftError: The rules contradict each other.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: ChatTemplate, data: DataConfig) -> None:
        raise_all(mistakes(data))
        self._tokenizer, self._template, self._data = tokenizer, template, data
        self._encoder = Encoder(tokenizer)
        self._fitting: dict[frozenset[Holds], list[str]] = {}

    def check(self, held: Callable[[], frozenset[Holds]] = frozenset) -> None:
        """Refuse a template that can teach no model to answer; ``held`` says what the rows hold, for advice."""
        problems = [self._problem(probe) for probe in PROBES]
        if None not in problems:  # the reason is that of the plainest conversation
            raise SftError(where=self._template.label, problem=str(problems[0]), fix=self.offer(held()))
        probe = PROBES[problems.index(None)]
        if unprompted := Renderer(self._of(probe), self._tokenizer, self._data).unprompted(probe):
            raise SftError(
                where=self._template.label,
                problem="it ignores add_generation_prompt: no server's prompt would hold"
                f" the {unprompted!r} before an answer",
                fix="write it at the template's end, inside {% if add_generation_prompt %}…{% endif %}",
            )

    def offer(self, held: frozenset[Holds]) -> str:
        """Which other template to choose: those that fit the tokenizer and what the rows hold, or one's own file."""
        if others := self.fitting(held):
            fits = " and the rows" if held else ""
            return f"choose one that fits this tokenizer{fits}: template={', '.join(others)}"
        if not (names := together(held)):
            return _NO_TEMPLATE
        return f"name a template that shows what the rows hold ({names}): template.path=FILE.jinja"

    def fitting(self, held: frozenset[Holds]) -> list[str]:
        """The other templates that can teach such rows: the tokenizer's own (``auto``), and those of configs."""
        if held not in self._fitting:
            self._fitting[held] = [name for name in ("auto", *named_templates()) if self._fits(name, held)]
        return self._fitting[held]

    def _fits(self, name: str, held: frozenset[Holds]) -> bool:
        """Whether another template can teach this tokenizer's model, and shows what the rows hold."""
        try:
            template = load_template(TemplateConfig(name=name), self._tokenizer)
        except SftError:
            return False
        if template.source == self._template.source:
            return False
        other = TemplateCheck(self._tokenizer, template, self._data)
        teaches = any(other._problem(probe) is None for probe in PROBES)
        return teaches and all(other._problem(one.example()) is None for one in held)

    def _of(self, conversation: Conversation) -> ChatTemplate:
        """The template of a conversation: a tokenizer may have one of its own for those with tools."""
        return self._template.for_tools if conversation.tools else self._template

    def _problem(self, probe: Conversation) -> TemplateRefusal | Unproven | None:
        """What is wrong with a conversation whose answer is muted nowhere."""
        renderer = Renderer(self._of(probe), self._tokenizer, DataConfig())
        try:
            result = self._encoder.encode(renderer.render(shaped(probe, DataConfig(thinking=self._data.thinking))))[0]
        except TemplateRefusal as refusal:
            return refusal
        return result if isinstance(result, Unproven) else None
