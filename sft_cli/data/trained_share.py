"""Whether the share of the tokens that carry loss looks like a mistake."""

from collections.abc import Mapping
from typing import Any

MIN_SHARE = 0.02
"""A share below this is more often a wrong mask than long prompts."""


def unusual_share(manifest: Mapping[str, Any]) -> str:
    """What is unusual about the trained share of the training split; empty if nothing is.

    All tokens are expected where ``data.train_on`` is all or every source is replayed.
    """
    split = manifest["splits"]["train"]
    tokens, trained, examples = split["tokens"], split["trained_tokens"], split["examples"]
    if not tokens:
        return ""
    if trained < MIN_SHARE * tokens:
        return f"less than {MIN_SHARE:.0%}: check that the answers are what is trained"
    asked = manifest["inputs"]["encode"]["rules"]["train_on"] == "all"
    replayed = all(source["role"] == "replay" for source in manifest["sources"].values())
    if trained >= tokens - examples and not asked and not replayed:  # nothing predicts the first token of an example
        return "every token is trained, as in plain documents: check that the rows are no conversations"
    return ""
