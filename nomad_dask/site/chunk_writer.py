"""The parts of a site: bytes in base64 inside a script, which a page from disk may load, too."""

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
class Parts:
    """Writes the parts of a site and counts them.

    Attributes
    ----------
    folder : Path
        Where the site grows.
    files, size : int
        Files so far, and their bytes.
    largest : int
        Bytes of the largest.
    """

    folder: Path
    files: int = 0
    size: int = 0
    largest: int = 0
    _made: set[Path] = field(default_factory=set)

    def write(self, name: str, content: bytes) -> None:
        """Write one part.

        Parameters
        ----------
        name : str
            Its path in the site, without ``.js``.
        content : bytes
        """
        with self._opened(name) as part:
            part.write(content)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one part as an Arrow stream of one batch."""
        self.write_batches(name, table.schema, table.combine_chunks().to_batches())

    def write_batches(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Write one part as an Arrow stream; no more than one batch is held."""
        import pyarrow as pa

        with self._opened(name) as part, pa.ipc.new_stream(part, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file that is no part, such as a picture or a file of the page."""
        path = self._path(name)
        path.write_bytes(content)
        self._count(path)

    @contextmanager
    def _opened(self, name: str) -> Iterator[_Encoder]:
        path = self._path(f"{name}.js")
        with path.open("wb") as out:
            out.write(f'nomad({json.dumps(name)},"'.encode())
            part = _Encoder(out)
            yield part
            part.finish()
            out.write(b'")\n')
        self._count(path)

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)
        return path

    def _count(self, path: Path) -> None:
        size = path.stat().st_size
        self.files += 1
        self.size += size
        self.largest = max(self.largest, size)


class _Encoder:
    """A file that writes what it is given in base64 into another."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._rest = b""

    def write(self, content: bytes | memoryview) -> int:
        whole = self._rest + bytes(content)
        cut = len(whole) - len(whole) % 3
        self._out.write(b64encode(whole[:cut]))
        self._rest = whole[cut:]
        return len(content)

    def finish(self) -> None:
        self._out.write(b64encode(self._rest))
        self._rest = b""

    def flush(self) -> None:
        """Do nothing: the file inside is flushed when it is closed."""
