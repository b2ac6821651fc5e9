"""What every source of vectors can do: tell its shape, and read any range of rows on any worker."""

from __future__ import annotations

import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import numpy as np

from nomad_dask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

# Sources that live in the memory of this process, by the token that stands for them in a pickle.
_LIVING: WeakValueDictionary[str, Source] = WeakValueDictionary()


class PerThread(threading.local):
    """Things kept open by each thread for itself, and left behind when pickled."""

    def __reduce__(self) -> Any:
        return PerThread, ()


class Source(ABC):
    """Vectors that can be read by ranges of rows.

    A source is small and can be pickled; a worker that has it opens the file by itself. One that is not
    `shareable` is pickled as a token, which gives the same object back within its process only.

    Attributes
    ----------
    n_rows, n_dims : int
        Shape of the whole.
    dtype : numpy.dtype
        Element type of what `read` returns, in native byte order: an integer, float16, float32 or float64.
    name : str
        How messages call it, such as a path.
    shareable : bool
        Whether another process can open it. One that cannot is first written to the workspace.
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
        """Return a digest that changes when the data does, cheap to make (shape, sizes, some bytes)."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.shareable:
            return super().__reduce_ex__(protocol)
        token = self.__dict__.setdefault("_token", secrets.token_hex(16))
        _LIVING[token] = self
        return _living, (token, self.name, self.n_rows, self.n_dims, self.dtype)

    def __dask_tokenize__(self) -> Any:
        return type(self).__qualname__, self.fingerprint()

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the row numbers, ascending, at which reading is cheapest to split (row groups, chunks)."""
        return ()

    def column_names(self) -> list[str]:
        """Return the names of the columns beside the vectors that can be carried to the map."""
        return []

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Return the named columns of rows `start` to `stop`."""
        raise NotImplementedError(f"{self.name} has no columns")

    def blocks(self, max_rows: int) -> list[tuple[int, int]]:
        """Return ranges of rows that cover the source, each of at most `max_rows`, ending at `breaks`."""
        ranges: list[tuple[int, int]] = []
        edges = sorted({0, self.n_rows, *(b for b in self.chunk_boundaries() if 0 < b < self.n_rows)})
        start = 0
        for edge, following in zip(edges[1:], [*edges[2:], None], strict=True):
            if following is not None and following - start <= max_rows:
                continue  # the next break still fits in this block
            for s in range(start, edge, max_rows):
                ranges.append((s, min(s + max_rows, edge)))
            start = edge
        return ranges

    def read_groups(self, max_rows: int) -> list[list[tuple[int, int]]]:
        """Return the blocks in groups, each to be read in order by one thread.

        Blocks of one interval between `breaks` are together: to read from the middle of a row group, all
        before it has to be decoded. A source without breaks can be read anywhere, its blocks are alone.
        """
        blocks = self.blocks(max_rows)
        edges = self.chunk_boundaries()
        if not len(edges):
            return [[block] for block in blocks]
        ends = {int(edge) for edge in edges}
        stretches: list[list[tuple[int, int]]] = [[]]
        for start, stop in blocks:
            if start in ends and stretches[-1]:
                stretches.append([])
            stretches[-1].append((start, stop))
        return stretches

    def slice_rows(self, start: int, stop: int) -> Self:
        """Return a source that can read rows `start` to `stop` by the same numbers, and is smaller when pickled.

        Nothing else may be asked of it.
        """
        return self

    def check_unchanged(self) -> None:  # noqa: B027 - for sources in memory there is nothing to see
        """Check that this process sees the data as it was opened; raises an `InputError` that says what differs."""

    def iterate(self, max_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, rows)`` for every block of at most `max_rows` rows."""
        for start, stop in self.blocks(max_rows):
            yield start, self.read(start, stop)

    def as_dask_array(self, max_rows: int = 65_536) -> Any:
        """Return the vectors as a lazy Dask array, one chunk a block."""
        import dask.array as da
        from dask.delayed import delayed

        read = delayed(self.read, pure=True)
        parts = [
            da.from_delayed(read(a, b), shape=(b - a, self.n_dims), dtype=self.dtype)  # type: ignore[no-untyped-call]
            for a, b in self.blocks(max_rows)
        ]
        return da.concatenate(parts, axis=0)  # type: ignore[no-untyped-call]


def describe_rows(source: Source, start: int, stop: int) -> str:
    """Return how messages call some rows of a source."""
    return f"{source.name}, rows {start} to {max(start, stop - 1)},"


class UnavailableSource(Source):
    """Stands for a source in the memory of another process: it has a shape, but nothing can be read.

    Reading fails and not unpickling, because what a worker cannot unpickle ends its connection.
    """

    shareable = False

    def __init__(self, token: str, name: str, n_rows: int, n_dims: int, dtype: np.dtype[Any]) -> None:
        self._token = token
        self.name, self.n_rows, self.n_dims, self.dtype = name, n_rows, n_dims, dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Refuse."""
        raise InputError(
            f"{self.name} is held in the memory of another process, or is gone: write it to a file that all "
            "workers can read (.npy or Parquet) and give its path."
        )

    def fingerprint(self) -> str:
        """Refuse as well, by reading."""
        return str(self.read(0, 1))


def _living(token: str, *shape: Any) -> Source:
    """Return the source of this process that a token stands for, or else its stand-in."""
    return _LIVING.get(token) or UnavailableSource(token, *shape)
