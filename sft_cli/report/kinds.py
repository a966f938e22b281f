"""Define the kinds of rows that ``sft inspect --worst`` prints."""

from typing import Literal

Worst = Literal["truncated", "lowest_share", "longest", "shortest", "random"]
KINDS: dict[Worst, str] = {
    "truncated": "most truncated",
    "lowest_share": "lowest trained share",
    "longest": "longest",
    "shortest": "shortest",
    "random": "random",
}
"""Choice of ``--worst`` -> kind of example in the gallery."""
