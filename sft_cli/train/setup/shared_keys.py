"""The number of attention keys per token in the rows of a run whose examples share prefixes."""

from sft_cli.batching.collate import keys_per_token
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.speed import Choice
from sft_cli.data.prepared import PreparedData

SAMPLED_EXAMPLES = 512
"""Largest number of examples that are sampled."""


def count_shared_keys(config: Config, prepared: PreparedData, tokens: int) -> float:
    """Return the number of keys that the segments of a micro-batch attend to per token, from the examples of a step.

    Args:
        config: The settings of the run.
        prepared: The rows.
        tokens: Most tokens of a micro-batch.
    """
    speed = config.speed
    if not speed.packing or speed.share_prefixes is Choice.never:
        return 1.0
    count = min(len(prepared.train), resolved(config.trainer.examples_per_step), SAMPLED_EXAMPLES)
    examples = [prepared.train.tokens(index) for index in range(count)]
    return keys_per_token(examples, tokens, speed.share_prefixes)
