"""``/save``: a conversation as a row of training data."""

import json
from pathlib import Path
from typing import Any

from sft_cli.utils.disks import translate_disk_errors


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Append one row to a JSONL file in a single write.

    Raises:
        SftError: The disk is full, or the file cannot be written.
    """
    with translate_disk_errors(file, "free disk space"), file.open("ab+") as stream:
        stream.seek(0, 2)
        begins = ""
        if stream.tell():
            stream.seek(-1, 2)
            begins = "" if stream.read(1) == b"\n" else "\n"
        stream.write(f"{begins}{json.dumps(row, ensure_ascii=False)}\n".encode())
