"""Ollama's Modelfile: the GGUF file and the stop texts.

It has no TEMPLATE: Ollama renders the Jinja template inside the GGUF file. A translation into Ollama's own template
language would be a second template that nothing compares with the first.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

from sft_cli.export.gguf_file import stop_ids

NAME = "Modelfile"


def write_modelfile(directory: Path, gguf: str, model: Path) -> None:
    """Write the Modelfile of a GGUF file.

    Args:
        directory: The directory of the file.
        gguf: The name of the file.
        model: The model directory that the file was written from, for its stop tokens.
    """
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    stops = [tokenizer.id_to_token(id) for id in stop_ids(model)]
    lines = [f"FROM ./{gguf}", *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops)]
    (directory / NAME).write_text("\n".join([*lines, "PARAMETER temperature 0"]) + "\n", encoding="utf-8")
