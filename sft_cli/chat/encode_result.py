"""The result of encoding one row."""

from dataclasses import dataclass

from sft_cli.errors import SftError
from sft_cli.types import Example


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """The examples of one row, or why it is rejected.

    Attributes:
        examples: Its examples, in turn order; empty if it is rejected.
        problem: Why it is rejected, or None.
        too_long: Whether it is rejected for its length.
        no_loss_left: Whether it is rejected because truncation would leave no trained token.
        dropped_messages: Messages removed from its front to make it fit.
        remarks: Keys of data/remarks.py: what encoding changed or noticed.
        stop_tokens: Stop tokens that end its trained turns.
        num_pieces: Examples into which a long document was split; 0 if it was not split.
        max_tokens: Tokens of its longest example, even if that is too long or was cut; 0 if there is none.
        min_length: The shortest trainer.max_length at which truncation leaves a trained token; ``max_tokens`` if no
            example is too long.
        truncated_tokens: Tokens removed by truncation.
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
