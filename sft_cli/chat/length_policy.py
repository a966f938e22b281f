"""Handle rows longer than ``trainer.max_length``: reject, drop the oldest turns, truncate, or split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sft_cli.chat.documents import split_document
from sft_cli.chat.encode_result import EncodeResult
from sft_cli.chat.truncation import CUT_ANSWER, ProvenExample, truncate
from sft_cli.config.schema.data import Overflow
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Example


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """Applies ``data.overflow`` to the verified examples of a row.

    Attributes:
        max_length: Length of the longest example, in tokens.
        overflow: The policy for longer examples.
        split_documents: Whether longer documents are split into pieces (LM replay) instead.
        control_tokens: The tokenizer's control tokens and their ids.
    """

    max_length: int
    overflow: Overflow
    split_documents: bool
    control_tokens: Mapping[str, int]

    def apply(
        self,
        row: Conversation,
        proven: Sequence[ProvenExample],
        stop_tokens: frozenset[str],
        remarks: frozenset[str] = frozenset(),
    ) -> EncodeResult:
        """Return the examples of a row, split or truncated if the policy says so, or the rejection.

        Args:
            row: The row.
            proven: Its verified examples.
            stop_tokens: Stop tokens that end its trained turns.
            remarks: Keys of data/remarks.py.
        """
        examples = tuple([proven_example.example for proven_example in proven])
        max_tokens = max([len(example.input_ids) for example in examples])
        result = EncodeResult(
            examples, remarks=remarks, stop_tokens=stop_tokens, max_tokens=max_tokens, min_length=max_tokens
        )
        if max_tokens <= self.max_length:
            return result
        min_length = min(proven_example.min_length for proven_example in proven)
        if row.text is not None and self.split_documents:
            pieces = tuple(split_document(examples[0], self.max_length))
            return replace(
                result, examples=pieces, num_pieces=len(pieces), max_tokens=self.max_length, min_length=min_length
            )
        if self.overflow is not Overflow.truncate or min_length > self.max_length:
            return self._too_long(row, max_tokens, min_length)
        truncated = truncate(proven, self.max_length)
        return replace(
            result,
            examples=truncated.examples,
            stop_tokens=self._still_trained(stop_tokens, truncated.examples),
            remarks=remarks | ({CUT_ANSWER} if truncated.cuts_answer else set()),
            min_length=min_length,
            truncated_tokens=truncated.removed_tokens,
        )

    def drop_oldest_turns(
        self, conversation: Conversation, result: EncodeResult, encode: Callable[[Conversation], EncodeResult]
    ) -> EncodeResult:
        """Drop as few of the oldest turns of a conversation as make it fit.

        Args:
            conversation: The conversation.
            result: Its result, which is too long.
            encode: Returns the result of a shorter conversation.

        Returns:
            The result of the shorter conversation; ``result`` if none fits.
        """
        candidates = _without_oldest_exchanges(conversation)
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            attempt = encode(candidates[middle])
            if attempt.problem is None:
                num_dropped = len(conversation.messages) - len(candidates[middle].messages)
                high, result = middle, replace(attempt, dropped_messages=num_dropped)
            else:
                low = middle + 1
        return result

    def _still_trained(self, stop_tokens: frozenset[str], examples: Sequence[Example]) -> frozenset[str]:
        """Return the stop tokens that still carry loss."""
        ids = {
            id for example in examples for id, weight in zip(example.input_ids, example.weights, strict=True) if weight
        }
        return frozenset(stop for stop in stop_tokens if self.control_tokens.get(stop) in ids)

    def _too_long(self, row: Conversation, max_tokens: int, min_length: int) -> EncodeResult:
        """Return the rejection of a row for its length."""
        problem, choices = f"{max_tokens} tokens, longer than trainer.max_length={self.max_length}", ["drop"]
        if self.overflow is Overflow.error:
            choices += ["drop_oldest_turns"] * bool(row.messages)
            choices += ["truncate"] * (min_length <= self.max_length)
        elif self.overflow is Overflow.truncate:
            problem += f", and the first token that carries loss is number {min_length}: truncation would leave none"
        fix = f"trainer.max_length={max_tokens}, or data.overflow={' or '.join(choices)}"
        return EncodeResult(
            problem=SftError(where=row.where, problem=problem, fix=fix),
            too_long=True,
            no_loss_left=self.overflow is Overflow.truncate,
            max_tokens=max_tokens,
            min_length=min_length,
        )


def _without_oldest_exchanges(conversation: Conversation) -> list[Conversation]:
    """Return the conversation without its first exchange, its first two, and so on; the system message is kept."""
    messages = conversation.messages
    num_system = 1 if messages and messages[0].role == "system" else 0
    user_indices = [i for i in range(num_system + 1, len(messages)) if messages[i].role == "user"]
    trained_indices = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]
    return [
        replace(conversation, messages=messages[:num_system] + messages[i:])
        for i in user_indices
        if i < trained_indices[-1]
    ]
