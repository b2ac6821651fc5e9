"""Vectors in GPU memory: CuPy arrays, cuDF data frames, and Dask collections of either.

Neither library is imported here. NumPy's functions hand CuPy's arrays on to CuPy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.arrow import VectorColumns, find_vectors, ragged
from nomad_dask.sources.base import Source
from nomad_dask.sources.dask import DaskArraySource
from nomad_dask.sources.fingerprint import digest_of, sampled_digest
from nomad_dask.sources.validation import check_shape, native_dtype
from nomad_dask.utils.array_types import library_of

if TYPE_CHECKING:
    import pyarrow as pa


def host_array(array: Any) -> np.ndarray:
    """Return an array on a GPU as one of NumPy; one of NumPy as it is."""
    return array if isinstance(array, np.ndarray) and type(array) is np.ndarray else np.ascontiguousarray(array.get())


def contiguous(rows: Any) -> Any:
    """Return rows in C order, copied only if they are not."""
    return rows if rows.flags.c_contiguous else rows.copy(order="C")


class DeviceSource(Source):
    """Rows in GPU memory that the GPU backend takes as they are.

    A single process owns that memory. A worker that is a thread of this process copies nothing but what a
    layout asks for. Worker processes cannot see it: for them the rows are first written to the workspace,
    downloaded block by block, as is done with an array in host memory, and each reads the file to its GPU.
    """

    shareable = False

    @abstractmethod
    def read_device(self, start: int, stop: int) -> Any:
        """Return rows `start` to `stop` as a C-contiguous array on the device ``(stop - start, n_dims)`` of `dtype`.

        It may be a view of the data of the user: never write into it.
        """

    def read(self, start: int, stop: int) -> np.ndarray:
        """Download the rows."""
        return host_array(self.read_device(start, stop))

    def fingerprint(self) -> str:
        """Digest a sample of the rows; the same as for equal rows in host memory."""
        return sampled_digest(self)


class CupySource(DeviceSource):
    """Rows of a CuPy array. Blocks are views of a C-ordered one; others are copied block by block.

    Parameters
    ----------
    array : cupy.ndarray (n_rows, n_dims)

    Raises
    ------
    InputError
        Not two-dimensional, empty, or of a type that is not accepted.
    """

    def __init__(self, array: Any, name: str = "the CuPy array") -> None:
        self.name = name
        self._array = array
        self.n_rows, self.n_dims = check_shape(array.shape, name)
        self.dtype = native_dtype(array.dtype, name)

    def read_device(self, start: int, stop: int) -> Any:
        """Return a view of a C-ordered array, else a copy."""
        return contiguous(self._array[start:stop])


@dataclass(frozen=True)
class CudfColumns:
    """Which columns of a cuDF frame hold the vectors.

    Attributes
    ----------
    labels : tuple
        One column of lists, or several of numbers.
    lists : bool
        Which of both.
    dtype : numpy.dtype
        Element type of the rows.
    others : dict of str to label
        The columns beside, by name.
    """

    labels: tuple[Any, ...]
    lists: bool
    dtype: np.dtype[Any]
    others: dict[str, Any]


def cudf_columns(frame: Any, column: str | None, metadata_columns: Sequence[str], name: str) -> CudfColumns:
    """Choose the columns that hold the vectors, by the types of a frame, as it is done for Arrow tables.

    Raises
    ------
    InputError
        No such column, none that can be it, or more than one.
    """
    labels = {str(label): label for label in frame.columns}
    if len(labels) < len(frame.columns):
        raise InputError(f"{name} has two columns of one name among {list(frame.columns)}: rename one of them.")
    schema = frame.iloc[:0].to_arrow(preserve_index=False).schema
    found: VectorColumns = find_vectors(schema, column, metadata_columns, name)
    others = {n: label for n, label in labels.items() if n not in found.names}
    return CudfColumns(tuple(labels[n] for n in found.names), found.lists, native_dtype(found.dtype, name), others)


def cudf_dims(frame: Any, columns: CudfColumns, start: int, name: str) -> int:
    """Return the number of dimensions, by the first row of a frame, which is row `start` of the whole."""
    if not columns.lists:
        return len(columns.labels)
    first = frame[columns.labels[0]].iloc[:1]
    if first.null_count:
        raise _missing(start, name)
    return int(first.list.len().values[0])


def cudf_vectors(frame: Any, columns: CudfColumns, n_dims: int, start: int, name: str) -> Any:
    """Return the vectors of a frame as an array on the device ``(rows, n_dims)``; of lists without a copy.

    Parameters
    ----------
    frame : cudf.DataFrame
    columns : CudfColumns
    n_dims : int
    start : int
        Number of the frame's first row in the whole.
    name : str
        How messages call the data.

    Raises
    ------
    InputError
        A row of another length, or with a missing value. It is named.
    """
    parts = [frame[label] for label in columns.labels]
    for part in parts:
        if part.null_count:
            raise _missing(start + _first(part.isnull().values), name)
    if columns.lists:
        (lists,) = parts
        lengths = lists.list.len().values
        other = lengths != n_dims
        if bool(other.any()):
            row = _first(other)
            raise ragged(start + row, int(lengths[row]), n_dims, name)
        leaves = lists.list.leaves  # of a slice of a frame, those of its rows only
        if leaves.null_count:
            raise _missing(start + _first(leaves.isnull().values) // n_dims, name)
        return leaves.values.reshape(len(lists), n_dims)
    out = np.empty_like(parts[0].values, dtype=columns.dtype, order="C", shape=(len(frame), n_dims))
    for j, part in enumerate(parts):
        out[:, j] = part.values
    return out


def cudf_table(frame: Any, columns: CudfColumns, names: Sequence[str]) -> pa.Table:
    """Return some columns beside the vectors as an Arrow table, without the index."""
    table: pa.Table = frame[[columns.others[n] for n in names]].to_arrow(preserve_index=False)
    return table.rename_columns(list(names))


def _first(flags: Any) -> int:
    """Return where the first true value is."""
    return int(flags.argmax())


def _missing(row: int, name: str) -> InputError:
    return InputError(f"{name}: row {row} has a missing value (null). Remove the row or fill it in.")


class CudfSource(DeviceSource):
    """Rows of a cuDF data frame.

    A column of lists is used as it is, without a copy. cuDF holds at most 2³¹ − 1 numbers in one. Columns of
    numbers are put side by side block by block.

    Parameters
    ----------
    frame : cudf.DataFrame
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.

    Raises
    ------
    InputError
        No rows, no column that holds vectors, rows of several lengths or with missing values.
    """

    def __init__(
        self, frame: Any, column: str | None, metadata_columns: Sequence[str], name: str = "the data frame"
    ) -> None:
        self.name = name
        self._frame = frame
        self._columns = cudf_columns(frame, column, metadata_columns, name)
        self.dtype = self._columns.dtype
        check_shape((len(frame), 1), name)
        n_dims = cudf_dims(frame, self._columns, 0, name)
        self.n_rows, self.n_dims = check_shape((len(frame), n_dims), name)
        self._rows = cudf_vectors(frame, self._columns, n_dims, 0, name) if self._columns.lists else None

    def read_device(self, start: int, stop: int) -> Any:
        """Return a view of the lists, or a copy of columns of numbers."""
        if self._rows is not None:
            return self._rows[start:stop]
        return cudf_vectors(self._frame.iloc[start:stop], self._columns, self.n_dims, start, self.name)

    def column_names(self) -> list[str]:
        """Return all columns but those of the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Download a slice of the frame."""
        return cudf_table(self._frame.iloc[start:stop], self._columns, names)


class DaskDeviceSource(DaskArraySource, DeviceSource):
    """Rows of a Dask array whose chunks are on GPUs, computed when they are read.

    Workers that read by themselves compute a chunk on their own GPU and leave it there. Where the host asks
    for rows, the worker that has the chunk downloads it.

    Parameters
    ----------
    array : dask.array.Array (n_rows, n_dims)

    Raises
    ------
    InputError
        Not two-dimensional, empty, or of a type that is not accepted.
    """

    def __init__(self, array: Any, name: str = "the Dask array") -> None:
        super().__init__(array, name)
        on_host = self._collection.map_blocks(host_array, dtype=self.dtype, meta=np.empty((0, 0), self.dtype))
        self._on_host = DaskArraySource(on_host, name)

    def slice_rows(self, start: int, stop: int) -> Self:
        """Keep of both graphs only what the rows need."""
        part = super().slice_rows(start, stop)
        if part is not self:
            part._on_host = self._on_host.slice_rows(start, stop)
        return part

    def read(self, start: int, stop: int) -> np.ndarray:
        """Compute the chunks that the range needs, and download them."""
        return self._on_host.read(start, stop)

    def read_device(self, start: int, stop: int) -> Any:
        """Compute the chunks that the range needs."""
        pieces = [self._compute(i)[a - low : b - low] for i, low, a, b in self._pieces(start, stop)]
        pieces = pieces or [self._compute(0)[:0]]
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return contiguous(rows.astype(self.dtype, copy=False))


class DaskCudfSource(DaskDeviceSource):
    """Rows of a dask-cuDF data frame. Opening computes the lengths of its partitions and looks at the first row.

    Parameters
    ----------
    frame : dask_cudf.DataFrame
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.

    Raises
    ------
    InputError
        No rows, or no column that holds vectors.
    """

    def __init__(
        self, frame: Any, column: str | None, metadata_columns: Sequence[str], name: str = "the Dask data frame"
    ) -> None:
        import dask.array
        import dask.base
        from dask.delayed import delayed

        # Their annotations are partial; typed as Any here, once.
        da: Any = dask.array
        compute: Any = dask.base.compute
        check_shape((1, len(frame.columns)), name)
        columns = cudf_columns(frame._meta, column, metadata_columns, name)
        # One column is enough to count rows. One that is not of vectors is cheaper to read.
        cheap = next(iter(columns.others.values()), columns.labels[0])
        lengths = [int(n) for n in compute(*map(delayed(len), frame[[cheap]].to_delayed()))]
        check_shape((sum(lengths), 1), name)
        parts = frame[list(columns.labels)].to_delayed()
        first = next(i for i, n in enumerate(lengths) if n)
        n_dims = int(delayed(cudf_dims)(parts[first], columns, 0, name).compute())
        check_shape((sum(lengths), n_dims), name)
        edges = np.cumsum([0, *lengths])
        vectors = delayed(cudf_vectors, pure=True)
        chunks = [
            da.from_delayed(vectors(part, columns, n_dims, int(edge), name), (n, n_dims), dtype=columns.dtype)
            for part, edge, n in zip(parts, edges[:-1], lengths, strict=True)
            if n
        ]
        super().__init__(da.concatenate(chunks), name)
        self._columns = columns
        self._digest = digest_of(["dask frame", dask.base.tokenize(frame), *map(str, columns.labels)])
        self._beside = [*pairwise(edges.tolist())], frame[list(columns.others.values())].to_delayed()

    def slice_rows(self, start: int, stop: int) -> Self:
        """Leave out the columns beside the vectors too."""
        part = super().slice_rows(start, stop)
        if part is not self:
            part._beside = [], []
        return part

    def fingerprint(self) -> str:
        """Digest the token that Dask gives the frame by what it is made of."""
        return self._digest

    def column_names(self) -> list[str]:
        """Return all columns but those of the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Compute the partitions that the range needs, and download their rows."""
        import pyarrow as pa
        from dask.delayed import delayed

        tables = []
        for (low, high), part in zip(*self._beside, strict=True):
            a, b = max(start, low), min(stop, high)
            if a < b:
                rows = delayed(_rows_of_frame)(part, a - low, b - low)
                table = delayed(cudf_table)(rows, self._columns, list(names))
                tables.append(table.compute(scheduler="synchronous") if self.shareable else table.compute())
        return pa.concat_tables(tables, promote_options="permissive")


def _rows_of_frame(frame: Any, start: int, stop: int) -> Any:
    return frame.iloc[start:stop]


def open_device(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    """Open a CuPy array, a cuDF frame, or a Dask collection of either.

    Raises
    ------
    InputError
        Another object in GPU memory, or data that cannot be mapped.
    """
    in_parts = hasattr(x, "_meta")
    sample = x._meta if in_parts else x
    module = type(sample).__module__
    name = f"{module}.{type(sample).__qualname__}"
    if library_of(sample) == "cupy":
        if column is not None:
            raise InputError(f"column={column!r} was given, but an array has no columns: leave it out.")
        return DaskDeviceSource(x) if in_parts else CupySource(x)
    if module.startswith("cupyx.scipy.sparse"):
        raise InputError(
            f"Sparse data is not supported: {name} was given, dense vectors are accepted. Reduce it first, as "
            "with cuml.decomposition.TruncatedSVD(256).fit_transform(X)."
        )
    if library_of(sample) == "cudf" and x.ndim == 2:
        return DaskCudfSource(x, column, metadata_columns) if in_parts else CudfSource(x, column, metadata_columns)
    raise InputError(f"{name} is not accepted: give a CuPy array or a cuDF data frame, as with series.to_frame().")
