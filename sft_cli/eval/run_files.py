"""Files of a run that its evaluation reads."""

import json
from pathlib import Path

from sft_cli.errors import SftError


def read_stop_ids(directory: Path) -> list[int]:
    """Read the tokens that end an answer from the generation config of an adapter or model.

    Raises:
        SftError: There is no stop token.
    """
    file = directory / "generation_config.json"
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    stop_ids = [value] if isinstance(value, int) else value
    if not stop_ids:
        raise SftError(
            where=str(file),
            problem="it contains no stop token (eos_token_id)",
            fix='add the ids of the stop tokens to it: "eos_token_id": [ID, ID]',
        )
    return stop_ids
