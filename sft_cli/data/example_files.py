"""Files that one split's examples are written to, one behind the other, as ``datasets`` saves a large set."""

import json
from pathlib import Path
from typing import Any

SHARD_BYTES = 500_000_000
"""A file that holds as much is closed, and the next one begun: what ``datasets`` takes by default."""


class Shards:
    """Appends Arrow tables to files of about ``SHARD_BYTES`` in a directory that ``datasets`` saved without rows.

    Args:
        directory: Of one split; its ``state.json`` names the files when all are written.
        schema: Of the tables.
    """

    def __init__(self, directory: Path, schema: Any) -> None:
        self._directory, self._schema, self._files = directory, schema, list[Path]()
        for empty in directory.glob("*.arrow"):
            empty.unlink()
        self._begin()

    def write(self, examples: Any, max_rows: int) -> None:
        """Append a table, in batches of at most ``max_rows``."""
        if self._sink.tell() >= SHARD_BYTES:
            self._end()
            self._begin()
        self._writer.write_table(examples, max_chunksize=max_rows)

    def close(self, fingerprint: str) -> None:
        """Finish the last file, and name all; ``fingerprint`` is what ``datasets`` names its own caches after."""
        self._end()
        names = [f"data-{number:05}-of-{len(self._files):05}.arrow" for number in range(len(self._files))]
        for file, name in zip(self._files, names, strict=True):
            file.rename(self._directory / name)
        state = json.loads((self._directory / "state.json").read_text(encoding="utf-8"))
        state |= {"_data_files": [{"filename": name} for name in names], "_fingerprint": fingerprint}
        (self._directory / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def _begin(self) -> None:
        import pyarrow

        self._files.append(self._directory / f"data-{len(self._files):05}.arrow")
        self._sink = pyarrow.OSFile(str(self._files[-1]), "wb")
        self._writer = pyarrow.ipc.new_stream(self._sink, self._schema)

    def _end(self) -> None:
        self._writer.close()
        self._sink.close()
