"""Vectors in Dask arrays and data frames, computed when they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.dask_partitions import FramePartitions, partition_lengths
from nomad_dask.sources.fingerprint import digest_of
from nomad_dask.sources.fsspec import is_url
from nomad_dask.sources.lazy import LazySource
from nomad_dask.sources.pandas import count_dims, find_columns, frame_rows, frame_table
from nomad_dask.sources.validation import check_shape, native_dtype

if TYPE_CHECKING:
    import pyarrow as pa


class DaskArraySource(LazySource):
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

    def _rows(self, value: Any, i: int) -> Any:
        return np.ascontiguousarray(value, dtype=self.dtype)

    def fingerprint(self) -> str:
        """Digest the name that Dask computes from the array's definition."""
        return digest_of(["dask array", self._collection.name, self.n_rows, self.n_dims, self.dtype.str])


class DaskFrameSource(LazySource):
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
        self._labels = labels
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

    def local_paths(self) -> list[str]:
        """Return the files, directories and patterns that Dask's own readers read for the frame."""
        expression = getattr(self._collection, "expr", None)
        readers = [] if expression is None else [e for e in expression.walk() if "path" in e._parameters]
        given = [reader.operand("path") for reader in readers]
        paths = [path for one in given for path in (one if isinstance(one, list | tuple) else [one])]
        return [os.fspath(p) for p in paths if isinstance(p, str | os.PathLike) and not is_url(p)]

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

    def _rows(self, value: Any, i: int) -> Any:
        return frame_rows(value, self._vectors, self.n_dims, int(self._edges[i]), self.name)

    def fingerprint(self) -> str:
        """Digest the token that Dask computes from the frame's definition."""
        from dask.base import tokenize

        if self._collection is None:
            return self._digest
        return digest_of(["dask frame", tokenize(self._collection), self._columns.vectors])

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self._columns.lists else [self._labels[i] for i in self._columns.vectors]

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

        declared = self._collection._meta
        types = declared.dtypes.iloc[[self._columns.others[name] for name in names]]
        if not any(dtype.name in ("object", "category") for dtype in types):
            return frame_table(declared, self._columns, names, self.name).schema
        tables = (self.columns(names, int(a), int(b)) for a, b in pairwise(self._edges) if b > a)
        try:
            return pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"{self.name}: columns {', '.join(names)} cannot be kept ({error}). Give each of them one type."
            ) from error
