"""The chunks of a site: bytes in base64 inside a script, which a page opened from disk can load too."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class ChunkWriter:
    """Writes the chunks and files of a site, and counts them.

    Attributes
    ----------
    folder : Path
        The folder of the site.
    files, size : int
        Number of files written so far, and their bytes.
    largest : int
        Bytes of the largest file.
    """

    folder: Path
    files: int = 0
    size: int = 0
    largest: int = 0
    _folders: set[Path] = field(default_factory=set)

    def write(self, name: str, content: bytes) -> None:
        """Write one chunk.

        Parameters
        ----------
        name : str
            Path of the chunk in the site, without ``.js``.
        content : bytes
        """
        with self._open(name) as chunk:
            chunk.write(content)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one chunk as an Arrow stream of one batch."""
        self.write_batches(name, table.schema, table.combine_chunks().to_batches())

    def write_batches(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Write one chunk as an Arrow stream, with at most one batch in memory."""
        import pyarrow as pa

        with self._open(name) as chunk, pa.ipc.new_stream(chunk, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file that is not a chunk, such as a picture or a file of the page."""
        path = self._path(name)
        path.write_bytes(content)
        self._count(path)

    @contextmanager
    def _open(self, name: str) -> Iterator[_Encoder]:
        path = self._path(f"{name}.js")
        with path.open("wb") as out:
            out.write(f'nomad({json.dumps(name)},"'.encode())
            encoder = _Encoder(out)
            yield encoder
            encoder.finish()
            out.write(b'")\n')
        self._count(path)

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path

    def _count(self, path: Path) -> None:
        size = path.stat().st_size
        self.files += 1
        self.size += size
        self.largest = max(self.largest, size)


class _Encoder:
    """A file that encodes its content in base64 and writes it to another file."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._rest = b""

    def write(self, content: bytes | memoryview) -> int:
        pending = self._rest + bytes(content)
        stop = len(pending) - len(pending) % 3
        self._out.write(b64encode(pending[:stop]))
        self._rest = pending[stop:]
        return len(content)

    def finish(self) -> None:
        self._out.write(b64encode(self._rest))
        self._rest = b""

    def flush(self) -> None:
        """Do nothing: the other file is flushed when it is closed."""
