"""Vectors in Dask arrays and data frames, computed when they are read."""

from __future__ import annotations

import copy
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.base import PerThread, Source
from nomad_dask.sources.dask_partitions import FramePartitions, partition_lengths
from nomad_dask.sources.fingerprint import digest_of
from nomad_dask.sources.pandas import count_dims, find_columns, frame_rows, frame_table
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape, native_dtype

if TYPE_CHECKING:
    import pyarrow as pa


class _LazySource(Source):
    """Partitions of rows that are computed one at a time; each thread keeps its last one.

    A graph without futures can be computed by any process that receives it, in a single thread: parallelism comes
    from the workers of the run. A graph with futures can only be computed through the client.
    """

    repeatable = False

    def __init__(self, collection: Any, lengths: Sequence[int], name: str) -> None:
        self.name = name
        self.shareable = not _has_futures(collection)
        self._collection = collection
        self._edges = np.cumsum([0, *lengths])
        self._last = PerThread()
        self._parts: dict[int, Any] | None = None

    @abstractmethod
    def _partition(self, i: int) -> Any:
        """Return the i-th partition as a lazy collection whose graph contains no other partition."""

    def slice_rows(self, start: int, stop: int) -> Self:
        """Keep only the part of the graph that the rows need: tasks must not carry the data of other partitions."""
        if not self.shareable:
            return self
        part = copy.copy(self)
        part._parts = {i: self._partition(i) for i, *_ in self._pieces(start, stop)}
        part._drop_graph()
        part._last = PerThread()
        return part

    def _drop_graph(self) -> None:
        """Drop what is required for other partitions only."""
        self._collection = None

    def _compute(self, i: int) -> Any:
        """Return the i-th partition, computed."""
        return self._compute_once("vectors", i, lambda: self._partition(i) if self._parts is None else self._parts[i])

    def _compute_once(self, what: str, i: int, lazy: Callable[[], Any]) -> Any:
        """Compute something of the i-th partition, unless this thread has computed it last."""
        last = self._last.__dict__
        if last.get("key") != (what, i):
            last.clear()  # before computing the next one, so that only one is in memory
            last.update(key=(what, i), value=self._compute_part(lazy(), i))
        return last["value"]

    def _compute_part(self, lazy: Any, i: int) -> Any:
        """Compute a delayed value with the rows of the i-th partition."""
        scheduler = {"scheduler": "synchronous"} if self.shareable else {}
        value = with_retries(lambda: lazy.compute(**scheduler), f"partition {i} of {self.name}")
        expected = int(self._edges[i + 1] - self._edges[i])
        if len(value) != expected:
            raise InputError(
                f"partition {i} of {self.name} has {len(value)} rows, {expected} expected: it does not "
                "produce the same rows each time. Write it to a file and give its path."
            )
        return value

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Return the overlap of a row range with each partition: index and first row of the partition, start, stop."""
        return [
            (i, int(low), max(start, int(low)), min(stop, int(high)))
            for i, (low, high) in enumerate(zip(self._edges[:-1], self._edges[1:], strict=True))
            if low < stop and high > start and high > low
        ]

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the partitions."""
        return [int(edge) for edge in self._edges]


class DaskArraySource(_LazySource):
    """Rows of a Dask array. Opening it computes nothing, unless the lengths of its chunks are unknown.

    Parameters
    ----------
    array : dask.array.Array (n_rows, n_dims)
        Chunks along the second axis are merged, lazily.

    Raises
    ------
    InputError
        The array is not two-dimensional, is empty, or has a dtype that is not accepted.
    """

    def __init__(self, array: Any, name: str = "the Dask array") -> None:
        if array.ndim != 2:
            check_shape(array.shape, name)
        self.dtype = native_dtype(array.dtype, name)
        if any(np.isnan(size) for size in array.shape):
            array = array.copy()  # the lengths are set in place; leave the user's array unchanged
            array.compute_chunk_sizes()
        self.n_rows, self.n_dims = check_shape(array.shape, name)
        super().__init__(array.rechunk({1: -1}), array.chunks[0], name)

    def _partition(self, i: int) -> Any:
        return self._collection.blocks[i].to_delayed(optimize_graph=True).item()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Compute the chunks that the range needs."""
        pieces = self._pieces(start, stop)
        if len(pieces) == 1:
            i, low, a, b = pieces[0]
            rows = np.ascontiguousarray(self._compute(i)[a - low : b - low], dtype=self.dtype).view()
            rows.flags.writeable = False  # it may be a view of the cached partition
            return rows
        out = np.empty((stop - start, self.n_dims), self.dtype)
        for i, low, a, b in pieces:
            out[a - start : b - start] = self._compute(i)[a - low : b - low]
        return out

    def fingerprint(self) -> str:
        """Digest the name that Dask computes from the array's definition."""
        return digest_of(["dask array", self._collection.name, self.n_rows, self.n_dims, self.dtype.str])


class DaskFrameSource(_LazySource):
    """Rows of a Dask data frame. Opening it computes the lengths of its partitions and reads the first row.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    column, metadata_columns
        As in `nomad_dask.sources.pandas.find_columns`.

    Raises
    ------
    InputError
        The frame has no rows or no column of vectors.
    """

    def __init__(
        self, frame: Any, column: str | None, metadata_columns: Sequence[str], name: str = "the Dask data frame"
    ) -> None:
        if not len(frame.columns):
            check_shape((1, 0), name)
        # One column is enough to count rows, and one that holds no vectors is cheaper to read.
        labels = [str(label) for label in frame.columns]
        lengths = partition_lengths(frame, next((i for i, c in enumerate(labels) if c in metadata_columns), 0))
        check_shape((sum(lengths), 1), name)
        super().__init__(frame, lengths, name)
        index = next(i for i, n in enumerate(lengths) if n)
        first = self._compute_part(FramePartitions(frame)[index], index)
        self._columns = find_columns(first, column, metadata_columns, name)
        self.n_rows, self.n_dims = check_shape((sum(lengths), count_dims(first, self._columns)), name)
        self.dtype = self._columns.dtype
        partitions = self._select(self._columns.vectors)
        self._vectors = replace(self._columns, vectors=partitions.columns)
        kept = [name for name in self._columns.others if name in metadata_columns]
        kept_partitions = self._select([self._columns.others[name] for name in kept])
        self._kept = dict(zip(kept, kept_partitions.columns, strict=True))
        self._partitions: Sequence[Any] = partitions
        self._kept_partitions: Sequence[Any] = kept_partitions
        self._digest = ""

    def _select(self, columns: Sequence[int]) -> FramePartitions:
        return FramePartitions(self._collection, columns, len(self._edges) - 1)

    def _partition(self, i: int) -> Any:
        return self._partitions[i]

    def _drop_graph(self) -> None:
        super()._drop_graph()
        self._partitions, self._kept_partitions = (), ()

    def __getstate__(self) -> dict[str, Any]:
        # Some frames cannot be pickled, but their graphs can.
        digest = self._digest if self._collection is None else self.fingerprint()
        return self.__dict__ | {"_collection": None, "_digest": digest}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Compute the partitions that the range needs."""
        out = np.empty((stop - start, self.n_dims), self.dtype)
        for i, low, a, b in self._pieces(start, stop):
            part = self._compute(i).iloc[a - low : b - low]
            out[a - start : b - start] = frame_rows(part, self._vectors, self.n_dims, a, self.name)
        return out

    def fingerprint(self) -> str:
        """Digest the token that Dask computes from the frame's definition."""
        from dask.base import tokenize

        if self._collection is None:
            return self._digest
        return digest_of(["dask frame", tokenize(self._collection), self._columns.vectors])

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Compute the columns to carry along of the partitions that the range needs."""
        import pyarrow as pa

        columns = replace(self._columns, others=self._kept)
        parts = []
        for i, low, a, b in self._pieces(start, stop):
            part = self._compute_once("columns", i, partial(self._kept_partitions.__getitem__, i))
            parts.append(frame_table(part.iloc[a - low : b - low], columns, names, self.name))
        return pa.concat_tables(parts, promote_options="permissive")

    def column_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the types of the named columns: as declared, or else from the values of all partitions.

        Raises
        ------
        InputError
            The types of some partitions cannot be combined.
        """
        import pyarrow as pa

        declared = self._collection._meta.iloc[:, [self._columns.others[name] for name in names]]
        if not any(dtype.name in ("object", "category") for dtype in declared.dtypes):
            return pa.Table.from_pandas(declared, preserve_index=False).rename_columns(list(names)).schema
        tables = (self.columns(names, int(a), int(b)) for a, b in pairwise(self._edges) if b > a)
        try:
            return pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"{self.name}: columns {', '.join(names)} cannot be kept ({error}). Give each of them one type."
            ) from error


def _has_futures(collection: Any) -> bool:
    """Return whether a collection's graph refers to results on a cluster."""
    if "distributed" not in sys.modules:
        return False  # without distributed, there are no futures
    from distributed import futures_of

    return bool(futures_of(collection))  # type: ignore[no-untyped-call]
