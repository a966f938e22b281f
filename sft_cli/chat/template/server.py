"""Load a saved tokenizer as a server does: with transformers, in the directory of the model's config.json."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from sft_cli.errors import SftError

SERVER_FIX = (
    "transformers rebuilds this tokenizer differently from its tokenizer.json: remove"
    ' model.tokenizer, or write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json'
)


def load_server_tokenizer(directory: Path, architecture: Any, *, trust_remote_code: bool) -> Any:
    """Return the tokenizer that ``AutoTokenizer`` loads from a directory with a model's configuration.

    Some model types have a tokenizer class that replaces the pre-tokenizer of tokenizer.json, and some are patched on
    loading: transformers decides this by the config.json in the same directory.

    Args:
        directory: The directory of the saved tokenizer.
        architecture: The model's transformers config; None if it is unknown, or if its file is in the directory.
        trust_remote_code: Whether a tokenizer may run code from its directory; transformers would ask on the terminal.
    """
    from transformers import AutoTokenizer

    has_own_code = architecture is not None and "auto_map" in vars(architecture)
    with _with_model_config(directory, None if has_own_code else architecture) as folder:
        options = {"config": architecture} if has_own_code else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    # Callers cut prompts that are too long themselves; transformers would warn of "indexing errors" on the terminal.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


@contextmanager
def _with_model_config(directory: Path, architecture: Any) -> Iterator[Path]:
    """Yield a directory with the files of ``directory`` and the architecture's config.json."""
    if architecture is None:
        yield directory
        return
    with TemporaryDirectory(prefix="sft-server-") as folder:
        copy = Path(folder)
        for file in directory.iterdir():
            if file.is_dir():  # further chat templates
                shutil.copytree(file, copy / file.name)
            elif file.name != "config.json":
                shutil.copy(file, copy / file.name)
        architecture.to_json_file(copy / "config.json", use_diff=False)
        yield copy


def check_row_ids(server: Any, file: Path, rows: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Compare the server's tokenizer with the plain tokenizer.json on the text of whole rows, answers included.

    Args:
        server: See ``load_server_tokenizer``.
        file: The tokenizer.json that the data was prepared with.
        rows: Place and token ids of each row.

    Raises:
        SftError: A server would encode the same text to different ids.
    """
    plain = Tokenizer.from_file(str(file))
    plain.no_padding()
    plain.no_truncation()
    texts = plain.decode_batch([list(ids) for _, ids in rows], skip_special_tokens=False)
    for (where, _), text in zip(rows, texts, strict=True):
        ids, trained = server.encode(text, add_special_tokens=False), plain.encode(text, add_special_tokens=False).ids
        if ids != trained:
            raise SftError(
                where=f"{where} with the tokenizer in {file.parent}",
                problem="a server would encode this row to ids that differ from the trained ones: "
                + first_difference(ids, trained),
                fix=SERVER_FIX,
            )


def first_difference(ids: Sequence[int], trained: Sequence[int]) -> str:
    """Describe where two lists of ids begin to differ: ``from id 4 on [7, 8] for [9, 8]``."""
    differing = (i for i, (a, b) in enumerate(zip(ids, trained, strict=False)) if a != b)
    at = next(differing, min(len(ids), len(trained)))
    return f"from id {at} on {list(ids[at : at + 5])} for {list(trained[at : at + 5])}"
