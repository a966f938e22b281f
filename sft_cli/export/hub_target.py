"""``--to hub``: the merged model with its card, listed first, and uploaded with ``--push``."""

import json
import shlex
from pathlib import Path
from typing import Any

from sft_cli.config.redaction import redact_secrets
from sft_cli.console import counted, gib, say, table
from sft_cli.errors import SftError
from sft_cli.export.model_files import TORCH_DTYPES, build_model, model_dtype
from sft_cli.export.record import NAME, read_record, write_record
from sft_cli.export.request import ExportRequest, require_space
from sft_cli.export.staging import new_directory
from sft_cli.merge.plan import count_weights
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import sha256_of_file

CARD = "README.md"


def export_to_hub(request: ExportRequest) -> None:
    """Write the model to ``request.out`` unless it is there, list its files and its card, and upload it if asked.

    Raises:
        SftError: The model cannot be written, the directory is not as exported, or the hub refuses it.
    """
    if request.out.is_dir():
        check_written(request)
    else:
        _write(request)
    files = files_of(request.out)
    table(("file", "bytes"), list(files.items()))
    total = gib(sum(files.values()))
    if not request.push:
        card = request.out / CARD
        if card.is_file():
            say(card.read_text(encoding="utf-8").rstrip())
        say(f"dry run   {counted(len(files), 'file')} ({total}) would go to {request.repo}; nothing was uploaded")
        push = f"{request.command} --repo {request.repo} --out {shlex.quote(str(request.out))} --push"
        say(f"next      edit {shlex.quote(str(card))}, then {push}")
        return
    assert request.repo is not None
    record_card(request.out)
    url = push_directory(request.out, request.repo, private=not request.public)
    say(f"uploaded  {counted(len(files), 'file')} ({total}) to {url}")


def _write(request: ExportRequest) -> None:
    """Write the model, its card and the record."""
    dtype = model_dtype(request)
    require_space(f"model in {dtype}", count_weights(request.config.model) * TORCH_DTYPES[dtype].itemsize, request.out)
    with new_directory(request.out) as directory:
        build_model(request, directory, dtype)
        write_record(directory, request.run, request.config, request.target, dtype, **_options(request))


def _options(request: ExportRequest) -> dict[str, Any]:
    return {"into": request.into, "shard_size": request.shard_size}


def files_of(directory: Path) -> dict[str, int]:
    """Return the names and sizes of all files of a directory."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file.stat().st_size for file in files}


def check_written(request: ExportRequest) -> None:
    """Refuse a directory that an export to the hub did not write, or that has changed; only the card may be edited.

    Raises:
        SftError: The directory is another one, was written with other options, or a file differs.
    """
    record = read_record(request.out)
    again = f"write it again: rm -r {shlex.quote(str(request.out))}"
    where = f"--out {request.out}"
    if record is None or record.get("target") != "hub":
        raise SftError(
            where=where, problem="it already exists, and no export to the hub wrote it", fix="--out NEW_DIRECTORY"
        )
    if (request.dtype or record["dtype"]) != record["dtype"] or _options(request) != {
        name: record[name] for name in _options(request)
    }:
        text = f"it was written with --dtype {record['dtype']} --into {record['into']}"
        raise SftError(where=where, problem=f"{text} --shard-size {record['shard_size']}", fix=again)
    names = set(files_of(request.out)) - {NAME}
    changed = [
        name
        for name, digest in record["sha256"].items()
        if name != CARD and (name not in names or sha256_of_file(request.out / name) != digest)
    ]
    if odd := sorted({*changed, *(names - set(record["sha256"]) - {CARD})}):
        raise SftError(where=where, problem=f"{', '.join(odd)} differ from what was exported", fix=again)


def record_card(directory: Path) -> None:
    """Record the hash of the card as it is now, because its author may have edited it."""
    record, card = read_record(directory), directory / CARD
    assert record is not None
    record["sha256"] = {name: digest for name, digest in record["sha256"].items() if name != CARD}
    if card.is_file():
        record["sha256"][CARD] = sha256_of_file(card)
    write_atomic(directory / NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def check_repo(repo: str | None, *, push: bool) -> None:
    """Refuse a name that is none of a repository, and an upload that cannot work, before anything is written.

    Raises:
        SftError: The name is missing or wrong; for an upload, the hub is switched off or there is no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        valid = repo is not None and repo.count("/") == 1 and validate_repo_id(repo) is None
    except HFValidationError:
        valid = False
    if not valid:
        problem = "--to hub needs the name of a repository" if repo is None else "it is not the name of a repository"
        raise SftError(where="--repo" if repo is None else f"--repo {repo}", problem=problem, fix="--repo USER/NAME")
    if push and constants.is_offline_mode():
        raise SftError(where="--push", problem="HF_HUB_OFFLINE forbids requests", fix="unset HF_HUB_OFFLINE")
    if push and get_token() is None:
        raise SftError(
            where="--push", problem="there is no token of the hub", fix="hf auth login, or export HF_TOKEN=TOKEN"
        )


def push_directory(directory: Path, repo: str, *, private: bool) -> str:
    """Upload a directory as one commit and return the address of the repository, which is created if needed.

    The token is read by huggingface_hub, from HF_TOKEN or the file that ``hf auth login`` wrote.

    Raises:
        SftError: The hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=directory, commit_message="Upload a model with sft_cli")
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        lines = redact_secrets(str(error)).strip().splitlines()
        raise SftError(
            where=f"--repo {repo}",
            problem=f"the hub refused the upload: {lines[0] if lines else type(error).__name__}",
            fix=f"check that the token may write to {repo}: hf auth whoami",
        ) from error
    return str(url)
