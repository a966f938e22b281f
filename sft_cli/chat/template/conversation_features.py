"""Features of a conversation that a template must support: system message, tools, calls, reasoning, several turns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sft_cli.chat.template import reasoning_blocks
from sft_cli.types import Conversation, Message

EXAMPLE_TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}},
}
_ID = "abcdef123"
"""An id of nine letters and digits: Mistral's templates accept no other call ids."""
_CALL = {"type": "function", "id": _ID, "function": {"name": "look", "arguments": {"at": "sky"}}}


@dataclass(frozen=True, slots=True)
class ConversationFeatures:
    """Features of a conversation.

    Attributes:
        system: It has a system message.
        tools: It has tool schemas.
        calls: An assistant turn calls a tool.
        results: It has the result of a call.
        reasoning: An assistant turn has reasoning.
        multi_turn: It has more than one user message.
    """

    system: bool = False
    tools: bool = False
    calls: bool = False
    results: bool = False
    reasoning: bool = False
    multi_turn: bool = False

    @staticmethod
    def from_conversation(conversation: Conversation, *, reasoning: bool = True) -> "ConversationFeatures":
        """Return the features of a conversation; ``reasoning`` is False if reasoning is removed before rendering."""
        messages = conversation.messages
        roles = [message.role for message in messages]
        answers = [message for message in messages if message.role == "assistant"]
        return ConversationFeatures(
            system="system" in roles,
            tools=bool(conversation.tools),
            calls=any(message.extra.get("tool_calls") for message in answers),
            results="tool" in roles,
            reasoning=reasoning
            and any(reasoning_blocks.reasoning_texts({"content": m.content, **m.extra}) for m in answers),
            multi_turn=roles.count("user") > 1,
        )

    def example(self) -> Conversation:
        """Return a short conversation with these features."""
        return Conversation(
            tuple(self._messages()), "a short conversation", "", (EXAMPLE_TOOL,) if self.tools else None
        )

    def describe(self) -> str:
        """Describe the features in words; empty if there are none."""
        parts = {
            "system messages": self.system,
            "tools": self.tools or self.calls or self.results,
            "reasoning": self.reasoning,
            "several rounds": self.multi_turn,
        }
        return ", ".join(name for name, present in parts.items() if present)

    def _messages(self) -> Iterator[Message]:
        if self.system:
            yield Message("system", "Be kind.")
        yield Message("user", "Hi")
        if self.calls:
            yield Message("assistant", "", extra={"tool_calls": [_CALL]})
        if self.results:
            yield Message("tool", "Blue", extra={"tool_call_id": _ID, "name": "look"})
        if self.multi_turn:
            yield Message("assistant", "Hello")
            yield Message("user", "Bye")
        yield Message("assistant", "<think>\nThey speak.\n</think>\n\nBye" if self.reasoning else "Bye")


def describe_features(all_features: Iterable[ConversationFeatures]) -> str:
    """Describe the features of several conversations in words."""
    names = dict.fromkeys(name for features in all_features for name in features.describe().split(", ") if name)
    return ", ".join(names)
