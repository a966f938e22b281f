"""The tokenizer as a server has it: what transformers makes of the saved one beside a model's config.json."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from sft_cli.errors import SftError

FIX = (
    "transformers rebuilds this tokenizer differently from its tokenizer.json: use the model's own (leave"
    " model.tokenizer out), or set tokenizer_class=PreTrainedTokenizerFast in tokenizer_config.json"
)


def load(directory: Path, architecture: Any, *, trust_remote_code: bool) -> Any:
    """The tokenizer that ``AutoTokenizer`` makes of a directory beside a model's configuration.

    Some model types have a tokenizer class that puts its own pre-tokenizer over whatever tokenizer.json holds, and some
    are repaired while loading: transformers decides that by the config.json that lies there.

    Args:
        directory: The saved tokenizer.
        architecture: The model's transformers config; None where it is not known, or lies there already.
        trust_remote_code: Whether a tokenizer may run code that lies beside it; transformers would ask on the terminal.
    """
    from transformers import AutoTokenizer

    own_code = architecture is not None and "auto_map" in vars(architecture)
    with _beside(directory, None if own_code else architecture) as place:
        options = {"config": architecture} if own_code else {}
        return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **options)


@contextmanager
def _beside(directory: Path, architecture: Any) -> Iterator[Path]:
    """A directory with the files of ``directory`` and the architecture's config.json."""
    if architecture is None:
        yield directory
        return
    with TemporaryDirectory(prefix="sft-server-") as folder:
        place = Path(folder)
        for file in directory.iterdir():
            if file.is_dir():  # further chat templates
                shutil.copytree(file, place / file.name)
            elif file.name != "config.json":
                shutil.copy(file, place / file.name)
        architecture.to_json_file(place / "config.json", use_diff=False)
        yield place


def refuse_other_ids(server: Any, file: Path, rows: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Compare the server's tokenizer with the plain tokenizer.json on the text of whole rows, answers included.

    Args:
        server: See ``load``.
        file: The tokenizer.json that the data was prepared with.
        rows: Place and token ids of each row.

    Raises:
        SftError: A server would make other ids of the same text.
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
                problem="a server makes other ids of this row than are trained: " + first_difference(ids, trained),
                fix=FIX,
            )


def first_difference(ids: Sequence[int], trained: Sequence[int]) -> str:
    """Where two lists of ids begin to differ: ``from id 4 on [7, 8] for [9, 8]``."""
    differing = (i for i, (a, b) in enumerate(zip(ids, trained, strict=False)) if a != b)
    at = next(differing, min(len(ids), len(trained)))
    return f"from id {at} on {list(ids[at : at + 5])} for {list(trained[at : at + 5])}"
