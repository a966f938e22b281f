"""The result of encoding one row."""

from dataclasses import dataclass

from sft_cli.errors import SftError
from sft_cli.types import Example


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """The examples of one row, or the reason why it is rejected.

    Attributes:
        examples: The examples of the row, in turn order; empty if it is rejected.
        problem: The reason why the row is rejected, or None.
        too_long: Whether it is rejected for its length.
        no_loss_left: Whether it is rejected because truncation would leave no trained token.
        dropped_messages: Number of messages removed from the front to make the row fit.
        remarks: Keys of data/remarks.py about the encoding.
        stop_tokens: Stop tokens that end the trained turns.
        num_pieces: Number of examples into which a long document was split; 0 if it was not split.
        max_tokens: Number of tokens of the longest example, even if it is too long or was cut; 0 if there is none.
        min_length: The smallest trainer.max_length at which truncation leaves a trained token; ``max_tokens`` if no
            example is too long.
        truncated_tokens: Number of tokens removed by truncation.
    """

    examples: tuple[Example, ...] = ()
    problem: SftError | None = None
    too_long: bool = False
    no_loss_left: bool = False
    dropped_messages: int = 0
    remarks: frozenset[str] = frozenset()
    stop_tokens: frozenset[str] = frozenset()
    num_pieces: int = 0
    max_tokens: int = 0
    min_length: int = 0
    truncated_tokens: int = 0
