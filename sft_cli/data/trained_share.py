"""Check whether the share of tokens that carry loss looks like a mistake."""

from collections.abc import Mapping
from typing import Any

MIN_SHARE = 0.02
"""A share below this is more often a wrong mask than long prompts."""


def unusual_share(manifest: Mapping[str, Any]) -> str:
    """Return a warning about the trained share of the training split; empty if it is plausible.

    A share of 100% is plausible if ``data.train_on`` is all or every source is replayed.
    """
    split = manifest["splits"]["train"]
    tokens, trained, examples = split["tokens"], split["trained_tokens"], split["examples"]
    if not tokens:
        return ""
    if trained < MIN_SHARE * tokens:
        return f"less than {MIN_SHARE:.0%}: check that the answers are trained"
    trains_all = manifest["inputs"]["encode"]["rules"]["train_on"] == "all"
    replayed = all(source["role"] == "replay" for source in manifest["sources"].values())
    if (
        trained >= tokens - examples and not trains_all and not replayed
    ):  # nothing predicts the first token of an example
        return "every token is trained, as in plain documents: check that the rows are not conversations"
    return ""
