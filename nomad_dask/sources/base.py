"""The interface of all sources of vectors: their shape, and reading of any range of rows on any worker."""

from __future__ import annotations

import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import numpy as np

from nomad_dask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

# Sources in the memory of this process, by the token that represents them in a pickle.
_LOCAL_SOURCES: WeakValueDictionary[str, Source] = WeakValueDictionary()


class PerThread(threading.local):
    """Objects that each thread keeps open for itself; they are not pickled."""

    def __reduce__(self) -> Any:
        return PerThread, ()


class Source(ABC):
    """Vectors that are read by ranges of rows.

    A source is small and can be pickled; a worker that receives it opens the file itself. A source that is not
    `shareable` is pickled as a token, which is replaced by the same object when unpickled in the same process.

    Attributes
    ----------
    n_rows, n_dims : int
        Number of rows and dimensions of the data.
    dtype : numpy.dtype
        Element type of the rows, in native byte order: an integer, float16, float32 or float64.
    name : str
        Name in messages, such as a path.
    shareable : bool
        Whether another process can open the source. If not, its rows are first written to the workspace.
    """

    n_rows: int
    n_dims: int
    dtype: np.dtype[Any]
    name: str
    shareable: bool = True

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as a C-contiguous array ``(stop - start, n_dims)`` of `dtype`.

        The array may be a read-only view of the data: copy it before writing into it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that changes with the data and is cheap to compute (shape, sizes, some bytes)."""

    def local_paths(self) -> list[str]:
        """Return the files, directories and patterns on this machine that it reads, which no output may change."""
        return []

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.shareable:
            return super().__reduce_ex__(protocol)
        token = self.__dict__.setdefault("_token", secrets.token_hex(16))
        _LOCAL_SOURCES[token] = self
        return _find_local, (token, self.name, self.n_rows, self.n_dims, self.dtype)

    def __dask_tokenize__(self) -> Any:
        return type(self).__qualname__, self.fingerprint()

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the ascending row numbers at which reads are best split (edges of row groups or chunks)."""
        return ()

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns of numbers that are the dimensions; None if there are none."""
        return None

    def column_names(self) -> list[str]:
        """Return the names of the columns that can be carried along to the map."""
        return []

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Return the named columns of rows `start` to `stop`."""
        raise NotImplementedError(f"{self.name} has no columns")

    def column_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the types of the named columns, which hold for all rows."""
        return self.columns(names, 0, min(1, self.n_rows)).schema

    def blocks(self, max_rows: int) -> list[tuple[int, int]]:
        """Return row ranges that cover the source, of at most `max_rows` rows, cut at chunk boundaries if possible."""
        ranges: list[tuple[int, int]] = []
        edges = sorted({0, self.n_rows, *(b for b in self.chunk_boundaries() if 0 < b < self.n_rows)})
        start = 0
        for edge, following in zip(edges[1:], [*edges[2:], None], strict=True):
            if following is not None and following - start <= max_rows:
                continue  # the block can extend to the next boundary
            for s in range(start, edge, max_rows):
                ranges.append((s, min(s + max_rows, edge)))
            start = edge
        return ranges

    def read_groups(self, max_rows: int) -> list[list[tuple[int, int]]]:
        """Return the blocks in groups, each of which one thread should read in order.

        Blocks between two chunk boundaries form a group, because reading from the middle of a row group requires
        decoding the rows before it. Without chunk boundaries, each block is a group.
        """
        blocks = self.blocks(max_rows)
        edges = self.chunk_boundaries()
        if not len(edges):
            return [[block] for block in blocks]
        ends = {int(edge) for edge in edges}
        groups: list[list[tuple[int, int]]] = [[]]
        for start, stop in blocks:
            if start in ends and groups[-1]:
                groups.append([])
            groups[-1].append((start, stop))
        return groups

    def slice_rows(self, start: int, stop: int) -> Self:
        """Return a source of rows `start` to `stop`, with unchanged row numbers, that is smaller when pickled.

        It supports reading these rows only.
        """
        return self

    def checksums(self, start: int, stop: int) -> dict[int, int]:
        """Return checksums of what was computed to read the rows, by number; empty if nothing is computed."""
        return {}

    def with_checksums(self, checksums: Mapping[int, int]) -> Self:
        """Return a source whose computations must have the given checksums, for another pass over the same rows.

        Reading raises an `InputError` for others.
        """
        return self

    def check_unchanged(self) -> None:  # noqa: B027 - sources in memory have nothing to check
        """Check that this process sees the same data as when it was opened, or raise an `InputError`."""

    def iterate(self, max_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, rows)`` for every block of at most `max_rows` rows."""
        for start, stop in self.blocks(max_rows):
            yield start, self.read(start, stop)

    def as_dask_array(self, max_rows: int = 65_536) -> Any:
        """Return the vectors as a lazy Dask array with one chunk per block."""
        import dask.array as da
        from dask.delayed import delayed

        read = delayed(self.read, pure=True)
        parts = [
            da.from_delayed(read(a, b), shape=(b - a, self.n_dims), dtype=self.dtype)  # type: ignore[no-untyped-call]
            for a, b in self.blocks(max_rows)
        ]
        return da.concatenate(parts, axis=0)  # type: ignore[no-untyped-call]


def describe_rows(source: Source, start: int, stop: int) -> str:
    """Return the description of some rows of a source for messages."""
    return f"{source.name}, rows {start} to {max(start, stop - 1)},"


class UnavailableSource(Source):
    """Placeholder for a source in the memory of another process: it has a shape, but cannot be read.

    The error is raised on reading, not on unpickling, because an error in unpickling closes a worker's connection.
    """

    shareable = False

    def __init__(self, token: str, name: str, n_rows: int, n_dims: int, dtype: np.dtype[Any]) -> None:
        self._token = token
        self.name, self.n_rows, self.n_dims, self.dtype = name, n_rows, n_dims, dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Raise an error."""
        raise InputError(
            f"{self.name} is in the memory of another process, or is gone: write it to a file that all "
            "workers can read (.npy or Parquet) and give its path."
        )

    def fingerprint(self) -> str:
        """Raise the same error."""
        return str(self.read(0, 1))


def _find_local(token: str, *shape: Any) -> Source:
    """Return the source of this process with a token, or else a placeholder."""
    return _LOCAL_SOURCES.get(token) or UnavailableSource(token, *shape)
