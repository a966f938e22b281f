"""Load data sets of the Hugging Face hub, pinned to a commit, through ``datasets``."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources.columnar import BATCH_ROWS
from sft_cli.data.sources.remote_errors import translate_errors
from sft_cli.errors import SftError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from datasets.table import Table
    from pyarrow import RecordBatch


@lru_cache
def resolve_commit(repo: str, revision: str | None, key: str) -> str | None:
    """Return the commit of a data set's revision; None if the hub cannot be reached.

    The result is cached for the process, so that fingerprint and rows are of one commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2, as the hub client uses
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().dataset_info(repo, revision=revision, timeout=20).sha
    except GatedRepoError as error:
        fix = f"accept its terms on https://huggingface.co/datasets/{repo}, then hf auth login"
        raise SftError(where=key, problem=f"the hub data set {repo!r} is gated", fix=fix) from error
    except RevisionNotFoundError as error:
        problem = f"the hub data set {repo!r} has no revision {revision!r}"
        raise SftError(
            where=key,
            problem=problem,
            fix=f"{_setting(key, 'revision')}=main, or any branch, tag or commit that exists",
        ) from error
    except RepositoryNotFoundError as error:
        problem = f"{repo!r} is neither a local path nor a data set on the hub"
        raise SftError(
            where=key, problem=problem, fix=f"{key}=OWNER/NAME; for a private data set, hf auth login"
        ) from error
    except HfHubHTTPError as error:
        problem = f"the hub refused {repo!r}: {str(error).splitlines()[0]}"
        raise SftError(where=key, problem=problem, fix="run the command again later") from error
    except (HTTPError, OSError):
        return None


def load_table(config: SourceConfig, split: str, key: str) -> tuple[str, "Table"]:
    """Return the label of a hub split, ``repo@revision[split]``, and its rows, stored locally and memory-mapped."""
    from datasets import Dataset

    loaded, revision = _open(config, split, key, streaming=False)
    assert isinstance(loaded, Dataset)
    assert config.path is not None
    # Offline, datasets opens the newest commit it has, and ignores the revision.
    opened = {Path(file["filename"]).parent.name for file in loaded.cache_files}
    if resolve_commit(config.path, config.revision, key) is None and not opened <= {revision}:
        raise SftError(
            where=key,
            problem=f"the hub cannot be reached, and commit {revision} of {config.path!r} "
            "is not the newest one in the cache",
            fix=f"run the command once with a network, or remove {_setting(key, 'revision')}",
        )
    return _label(config, revision, split), loaded.data


def _setting(key: str, field: str) -> str:
    """Return the key of another field of the source whose path has this key."""
    return f"{key.rpartition('.')[0]}.{field}"


def load_stream(config: SourceConfig, split: str, key: str) -> tuple[str, "IterableDataset"]:
    """Return the label of a hub split, and its rows, fetched as they are read; needs a network."""
    from datasets import IterableDataset

    assert config.path is not None
    if resolve_commit(config.path, config.revision, key) is None:
        problem = f"the hub cannot be reached, and {config.path!r} is streamed"
        raise SftError(
            where=key, problem=problem, fix=f"run the command with a network, or {_setting(key, 'stream')}=false"
        )
    loaded, revision = _open(config, split, key, streaming=True)
    assert isinstance(loaded, IterableDataset)
    return _label(config, revision, split), loaded


def stream_batches(
    data: "IterableDataset",
    shard: int,
    num_shards: int,
    state: dict[str, Any] | None,
    before: int,
    label: str,
    key: str,
) -> Iterator[tuple[dict[str, Any] | None, int, list["RecordBatch"]]]:
    """Yield the batches of a shard after a state, each with the state and the number of rows before it.

    Args:
        data: The data set.
        shard: Number of the shard.
        num_shards: Number of shards.
        state: State of ``datasets`` to continue from, or None.
        before: Number of the last row before the state.
        label: Label of the shard, for errors.
        key: The configuration key to name in an error.
    """
    import pyarrow

    rows = (data.shard(num_shards, shard) if num_shards > 1 else data).with_format("arrow")
    if state is not None:
        rows.load_state_dict(state)
    try:
        with translate_errors("hf://datasets", label, key):
            for table in rows.iter(BATCH_ROWS):
                yield state, before, table.to_batches()  # pyright: ignore
                state, before = rows.state_dict(), before + len(table)
    except pyarrow.ArrowException as error:
        problem = f"{label!r} cannot be read: {str(error).splitlines()[0]}"
        raise SftError(
            where=key, problem=problem, fix=f"report it to the authors of the data set, or {key}=FILE_OR_HUB_ID"
        ) from error


def _open(config: SourceConfig, split: str, key: str, *, streaming: bool) -> tuple["Dataset | IterableDataset", str]:
    """Return the data set that ``datasets`` loads, and its commit."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    assert config.path is not None
    revision = pinned_commit(config, key)
    try:
        loaded = load_dataset(config.path, config.name, split=split, revision=revision, streaming=streaming)
    except (ValueError, DatasetNotFoundError, ConnectionError, OSError) as error:
        problem = f"cannot load split {split!r} of the hub data set {config.path!r}: {str(error).splitlines()[0]}"
        page = f"https://huggingface.co/datasets/{config.path}"
        fix = f"{_setting(key, 'split')}=SPLIT from {page}; offline, only cached data sets can be loaded"
        raise SftError(where=key, problem=problem, fix=fix) from error
    return loaded, revision  # pyright: ignore[reportReturnType]


def _label(config: SourceConfig, revision: str, split: str) -> str:
    """Return the label of a hub split, ``repo@revision[split]``."""
    return f"{config.path}@{revision[:12]}[{split}]"


def pinned_commit(config: SourceConfig, key: str) -> str:
    """Return the commit to read; offline, the newest cached one, or the configured one."""
    assert config.path is not None
    commit = resolve_commit(config.path, config.revision, key) or _cached_commit(config.path, config.revision)
    if commit is None:
        raise SftError(
            where=key,
            problem=f"{config.path!r} is not a local path, and the hub cannot be reached",
            fix=f"{key}=FILE, or run the command once with a network",
        )
    return commit


def _cached_commit(repo: str, revision: str | None) -> str | None:
    """Return the newest commit of a repository in the cache of ``datasets``, which does not record branches."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    owner, name = repo.split("/")
    folders = (Path(settings.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}").glob("*/*/*")
    commits = [folder for folder in folders if re.fullmatch("[0-9a-f]{40}", folder.name)]
    if revision is not None:
        commits = [folder for folder in commits if folder.name == revision]
    return max(commits, key=lambda folder: folder.stat().st_mtime).name if commits else None
