"""Vectors in a dask-cuDF data frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nomad_dask.sources.cudf import CudfColumns, count_cudf_dims, cudf_table, cudf_vectors, find_cudf_columns
from nomad_dask.sources.dask_cupy import DaskCupySource
from nomad_dask.sources.dask_partitions import FramePartitions, partition_lengths
from nomad_dask.sources.fingerprint import digest_of
from nomad_dask.sources.validation import check_shape

if TYPE_CHECKING:
    import pyarrow as pa


class DaskCudfSource(DaskCupySource):
    """Rows of a dask-cuDF data frame. Opening it computes the lengths of its partitions and reads the first row.

    Parameters
    ----------
    frame : dask_cudf.DataFrame
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.

    Raises
    ------
    InputError
        The frame has no rows or no column of vectors.
    """

    def __init__(
        self, frame: Any, column: str | None, metadata_columns: Sequence[str], name: str = "the Dask data frame"
    ) -> None:
        from dask.base import tokenize

        check_shape((1, len(frame.columns)), name)
        columns = find_cudf_columns(frame._meta, column, metadata_columns, name)
        labels = list(frame.columns)
        # One column is enough to count rows, and one that holds no vectors is cheaper to read.
        lengths = partition_lengths(frame, labels.index(next(iter(columns.others.values()), columns.labels[0])))
        super().__init__(_vector_array(frame, columns, lengths, name), name)
        self._columns = columns
        self._digest = digest_of(["dask frame", tokenize(frame), *map(str, columns.labels)])
        # Row ranges of the partitions, and the other columns of each.
        edges = np.cumsum([0, *lengths]).tolist()
        others = FramePartitions(frame, [labels.index(label) for label in columns.others.values()], len(lengths))
        self._other_columns: tuple[Sequence[tuple[int, int]], Sequence[Any]] = [*pairwise(edges)], others

    def slice_rows(self, start: int, stop: int) -> Self:
        """Drop the other columns too."""
        part = super().slice_rows(start, stop)
        if part is not self:
            part._other_columns = [], []
        return part

    def fingerprint(self) -> str:
        """Digest the token that Dask computes from the frame's definition."""
        return self._digest

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self._columns.lists else [str(label) for label in self._columns.labels]

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Compute the partitions that the range needs, and download their rows."""
        import pyarrow as pa
        from dask.delayed import delayed

        tables = []
        for (low, high), partition in zip(*self._other_columns, strict=True):
            a, b = max(start, low), min(stop, high)
            if a < b:
                rows = delayed(_slice_frame)(partition, a - low, b - low)
                table = delayed(cudf_table)(rows, self._columns, list(names))
                tables.append(table.compute(scheduler="synchronous") if self.shareable else table.compute())
        return pa.concat_tables(tables, promote_options="permissive")


def _vector_array(frame: Any, columns: CudfColumns, lengths: Sequence[int], name: str) -> Any:
    """Return the vectors as a lazy Dask array with one chunk per partition that is not empty."""
    import dask.array
    from dask.delayed import delayed

    da: Any = dask.array  # its annotations are partial
    check_shape((sum(lengths), 1), name)
    labels = list(frame.columns)
    partitions = FramePartitions(frame, [labels.index(label) for label in columns.labels], len(lengths))
    first = next(i for i, n in enumerate(lengths) if n)
    n_dims = int(delayed(count_cudf_dims)(partitions[first], columns, 0, name).compute())
    check_shape((sum(lengths), n_dims), name)
    starts = np.cumsum([0, *lengths])[:-1]
    vectors = delayed(cudf_vectors, pure=True)
    chunks = [
        da.from_delayed(vectors(partition, columns, n_dims, int(start), name), (n, n_dims), dtype=columns.dtype)
        for partition, start, n in zip(partitions, starts, lengths, strict=True)
        if n
    ]
    return da.concatenate(chunks)


def _slice_frame(frame: Any, start: int, stop: int) -> Any:
    return frame.iloc[start:stop]
