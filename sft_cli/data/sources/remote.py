"""Find remote files through fsspec, and download them once or open them for streaming.

An address may contain a password or a signature: messages show only its host and path.
"""

import hashlib
import io
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

from sft_cli.config.paths import cache_home
from sft_cli.config.redaction import is_masked, masked_address
from sft_cli.data.sources.remote_errors import signature_not_stored, translate_errors, unusable_address
from sft_cli.errors import SftError

SCHEMES = ("https", "http", "s3", "gs", "hf")
WEB_SCHEMES = ("https", "http")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""Extra packages that a scheme needs."""

VERSION_FIELDS = ("ETag", "etag", "blob_id", "Last-Modified", "LastModified", "updated")
"""Fields in which the file systems report a value that changes with the bytes of a file."""

AddressKind = Literal["file", "glob", "directory"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: Its address, which may hold credentials.
        path: Its host and path, for display.
        identity: The server's identification of this version (ETag, size, time); empty if it gives none.
        size: Bytes; None if the server does not report them.
        key: The configuration key to name in an error.
    """

    url: str = field(repr=False)
    path: str
    identity: str
    size: int | None
    key: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The last ending of its name."""
        return PurePosixPath(self.path).suffix

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Open the file for reading as it is fetched; seekable if the server supports ranges."""
        assert mode == "rb"
        system = _filesystem(self.url, self.key)
        with translate_errors(self.url, self.path, self.key):
            ranged = bool(self.size) and (
                urlsplit(self.url).scheme not in WEB_SCHEMES or _supports_ranges(system, self.url)
            )
            opened = system.open(_system_path(self.url), "rb", **({} if ranged else {"block_size": 0}))
        return io.BufferedReader(_RemoteBytes(opened, self, ranged), 1 << 20)  # pyright: ignore[reportReturnType]


class _RemoteBytes(io.RawIOBase):
    """The bytes of an open remote file, with client errors converted to errors of the source."""

    def __init__(self, opened: Any, file: RemoteFile, ranged: bool) -> None:
        self._opened, self._file, self._ranged = opened, file, ranged

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._ranged

    def tell(self) -> int:
        return self._opened.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._opened.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with translate_errors(self._file.url, self._file.path, self._file.key):
            content = self._opened.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def _supports_ranges(system: Any, url: str) -> bool:
    """Return whether a web server answers a request for the first byte with one byte."""
    from fsspec.asyn import sync

    async def ask() -> bool:
        session = await system.set_session()
        async with session.get(system.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
            return answer.status == 206

    return sync(system.loop, ask) is True


@lru_cache
def find_files(given: str, key: str) -> tuple[AddressKind, tuple[RemoteFile, ...]]:
    """Return the kind of an address, and its files, sorted by path.

    The result is cached for the process, so that fingerprint and rows are of one version.
    """
    return _ask_server(given, key)


def _ask_server(given: str, key: str) -> tuple[AddressKind, tuple[RemoteFile, ...]]:
    """Return the kind and files of an address, without the cache."""
    system, shown = _filesystem(given, key), display_url(given)
    if is_masked(given):
        raise signature_not_stored(given, shown, key)
    if urlsplit(given).scheme in WEB_SCHEMES:
        if "*" in urlsplit(given).path:
            raise unusable_address(key, f"web servers do not list their files, so {shown!r} matches nothing")
        with translate_errors(given, shown, key):
            entry_info = system.info(given)
        return "file", (_file(given, shown, entry_info, key),)
    inside = _system_path(given)
    with translate_errors(given, shown, key):
        system.invalidate_cache()
        if any(mark in inside for mark in "*?["):
            kind, entries = "glob", system.glob(inside, detail=True)
        elif system.isdir(inside):
            kind, entries = "directory", system.find(inside, detail=True)
        else:
            kind, entries = "file", {inside: system.info(inside)}
    scheme = urlsplit(given).scheme
    kept = sorted((path, entry) for path, entry in entries.items() if entry["type"] == "file")
    return kind, tuple(_file(f"{scheme}://{path}", f"{scheme}://{path}", entry, key) for path, entry in kept)


@lru_cache
def download(file: RemoteFile) -> Path:
    """Return a file in the cache, downloaded once per version on the server; once per process if it reports none."""
    folder = version_dir(file)
    target = folder / file.name
    if file.identity and target.is_file() and file.size in (None, target.stat().st_size):
        return target
    temporary = folder / f".{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with translate_errors(file.url, file.path, file.key):
            _filesystem(file.url, file.key).get_file(_system_path(file.url), str(temporary))
        size = temporary.stat().st_size
        if file.size not in (None, size):
            problem = f"only {size:,} of {file.size:,} bytes of {file.path!r} arrived"
            raise SftError(where=file.key, problem=problem, fix="run the command again")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def version_dir(file: RemoteFile) -> Path:
    """Return the directory of this version of a file in the cache."""
    return _address_dir(file.url) / f"{_short(file.url)}-{_short(file.identity)}"


def cached_download(given: str) -> Path | None:
    """Return the newest downloaded version of one file, for use offline; None if there is none.

    A masked address matches every address that differs only in the masked part.
    """
    address = "*" if is_masked(given) else _short(given)
    versions = [path for path in _address_dir(given).glob(f"{address}-*/*") if not path.name.startswith(".")]
    return max(versions, key=lambda path: path.stat().st_mtime, default=None)


def display_url(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"


def check_version(file: RemoteFile) -> None:
    """Check that the server still has this version of the file."""
    (current,) = _ask_server(file.url, file.key)[1]
    if current.identity != file.identity:
        raise SftError(
            where=file.name,
            problem="the file changed on the server while it was read",
            fix="run the command again",
        )


def _file(url: str, shown: str, entry: dict[str, Any], key: str) -> RemoteFile:
    """Return a file from the metadata of its file system."""
    if entry.get("mimetype") == "text/html":
        raise unusable_address(key, f"{shown!r} is a web page, not a data file")
    size = entry.get("size")
    versions = [f"{name}={entry[name]}" for name in VERSION_FIELDS if entry.get(name)]
    identity = ", ".join([*versions, f"size={size}"]) if versions else ""
    return RemoteFile(url, shown, identity, size, key)


def _system_path(url: str) -> str:
    """Return the path of a file in its file system: the whole address on the web, else bucket and path."""
    return url if urlsplit(url).scheme in WEB_SCHEMES else url.partition("://")[2].rstrip("/")


def _filesystem(url: str, key: str) -> Any:
    """Return fsspec's file system for an address."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        problem = f"{scheme}:// is not supported; the schemes are {', '.join(SCHEMES)}"
        raise SftError(where=key, problem=problem, fix=f"{key}=https://HOST/FILE, or a local path without a scheme")
    if not urlsplit(url).netloc:
        fix = "write it as scheme://host/path, such as https://example.org/rows.jsonl or s3://bucket/rows.jsonl"
        raise SftError(where=key, problem=f"{display_url(url)!r} has no host", fix=fix)
    import fsspec

    if scheme in WEB_SCHEMES:
        from aiohttp import ClientTimeout

        # The client's default limit of five minutes per request would abort large downloads.
        timeout = ClientTimeout(total=None, sock_connect=20, sock_read=60)
        # With content encoding, a file would not have the announced size.
        headers = {"Accept-Encoding": "identity"}
        # trust_env reads passwords from ~/.netrc, and proxies from the environment.
        return fsspec.filesystem("http", client_kwargs={"timeout": timeout, "trust_env": True}, headers=headers)
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return HfFileSystem()
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        problem = f"{scheme}:// needs {PACKAGES[scheme]}, which is not installed"
        raise SftError(where=key, problem=problem, fix="pip install 'sft-cli[remote]'") from error


def _address_dir(url: str) -> Path:
    """Return the directory of all versions of an address in the cache."""
    return cache_home() / "downloads" / _short(masked_address(url))


def _short(text: str) -> str:
    """Return a digest of a text, for names in the cache."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
