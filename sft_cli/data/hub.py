"""Data sets of the Hugging Face hub: pinned to a commit, read through ``datasets``."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from sft_cli.config.schema import SourceConfig
from sft_cli.data.columnar import BATCH_ROWS, records
from sft_cli.data.readers import Record
from sft_cli.errors import SftError


@lru_cache
def commit(repo: str, revision: str | None, key: str) -> str | None:
    """The commit behind a revision of a data set; None when the hub cannot be reached.

    Asked once a process, so that fingerprint and rows are of one commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2: whichever the hub client uses
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
        raise SftError(where=key, problem=problem, fix="give a branch, tag or commit that exists") from error
    except RepositoryNotFoundError as error:
        problem = f"there is no {repo!r}, neither here nor as a data set on the hub"
        raise SftError(where=key, problem=problem, fix="check the name; for a private one, hf auth login") from error
    except HfHubHTTPError as error:
        problem = f"the hub refused {repo!r}: {str(error).splitlines()[0]}"
        raise SftError(where=key, problem=problem, fix="try again later") from error
    except (HTTPError, OSError):
        return None


def rows(config: SourceConfig, split: str, key: str) -> tuple[str, Iterator[Record]]:
    """The label of a hub split, ``repo@revision[split]``, and its records."""
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    assert config.path is not None
    revision = pin(config, key)
    try:
        loaded = load_dataset(config.path, config.name, split=split, revision=revision)
    except (ValueError, DatasetNotFoundError, ConnectionError, OSError) as error:
        problem = f"cannot load split {split!r} of the hub data set {config.path!r}: {str(error).splitlines()[0]}"
        fix = "check name, split and revision of the source; offline, only what was loaded before is there"
        raise SftError(where=key, problem=problem, fix=fix) from error
    assert isinstance(loaded, Dataset)
    # Without a network datasets opens the newest commit it has, whatever revision was asked for.
    opened = {Path(file["filename"]).parent.name for file in loaded.cache_files}
    if commit(config.path, config.revision, key) is None and not opened <= {revision}:
        raise SftError(
            where=key,
            problem=f"the hub cannot be reached, and commit {revision} of {config.path!r} "
            "is not the newest loaded before",
            fix="run once with a network, or leave the revision out",
        )
    tables = loaded.with_format("arrow").iter(BATCH_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())  # pyright: ignore
    return f"{config.path}@{revision[:12]}[{split}]", records(batches)


def pin(config: SourceConfig, key: str) -> str:
    """The commit to read; offline, the newest one loaded before, or the one that was given."""
    assert config.path is not None
    found = commit(config.path, config.revision, key) or _loaded_before(config.path, config.revision)
    if found is None:
        raise SftError(
            where=key,
            problem=f"{config.path!r} is no local path, and the hub cannot be reached",
            fix="give a local file, or load the data set once with a network",
        )
    return found


def _loaded_before(repo: str, revision: str | None) -> str | None:
    """The commit of this repository that ``datasets`` has in its cache; which branch it was on is not known there."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    owner, name = repo.split("/")
    folders = (Path(settings.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}").glob("*/*/*")
    commits = [folder for folder in folders if re.fullmatch("[0-9a-f]{40}", folder.name)]
    if revision is not None:
        commits = [folder for folder in commits if folder.name == revision]
    return max(commits, key=lambda folder: folder.stat().st_mtime).name if commits else None
