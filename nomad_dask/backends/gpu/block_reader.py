"""Rows of a source on the device, by the shortest way there is from where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.errors import InputError
from nomad_dask.sources import validation as host_rows
from nomad_dask.sources.base import Source
from nomad_dask.sources.cuda import CudfColumns, DeviceSource, cudf_vectors
from nomad_dask.sources.npy import NpySource
from nomad_dask.sources.parquet import ParquetSource

# cuDF counts the numbers in a column of lists in int32.
_MOST_NUMBERS = 2**31 - 1
# What decoding takes beside the rows: compressed pages, their levels, and the rows' offsets.
_DECODING = 3


def read(source: Source, start: int, stop: int, runtime: Runtime) -> Any:
    """Return rows `start` to `stop` of a source as an array on the device ``(stop - start, n_dims)`` of its dtype.

    A C-ordered ``.npy`` file is read straight to the device where KvikIO is installed, Parquet is decoded there
    where cuDF is, and rows that are on the device stay there. Everything else is read on the host, and uploaded
    in one piece. The array may be a view of the data of the user: never write into it.

    Raises
    ------
    InputError
        What `source.read` raises, by the same names of rows.
    """
    rows = None
    if isinstance(source, DeviceSource):
        rows = source.read_device(start, stop)
    elif isinstance(source, NpySource) and stop > start:
        rows = _read_npy(source, start, stop, runtime)
    elif isinstance(source, ParquetSource) and stop > start:
        rows = _read_parquet(source, start, stop, runtime)
    return runtime.upload(source.read(start, stop)) if rows is None else rows


def _read_npy(source: NpySource, start: int, stop: int, runtime: Runtime) -> Any:
    """Read a file straight to the device; None where that cannot be done."""
    if source.fortran_order or not source.stored_dtype.isnative:
        return None
    try:
        import kvikio
    except ImportError:
        return None
    rows = runtime.xp.empty((stop - start, source.n_dims), source.dtype)
    width = source.n_dims * source.dtype.itemsize
    # Its copies go to streams of their own, and what this memory held before may still be in use.
    runtime.synchronize()
    with kvikio.CuFile(source.path, "r") as file:
        found = file.pread(rows, rows.nbytes, source.offset + start * width).get()
    if found != rows.nbytes:
        return None  # the file has shrunk: the host says so in the usual words
    return rows


def _read_parquet(source: ParquetSource, start: int, stop: int, runtime: Runtime) -> Any:
    """Decode the row groups of a range on the device; None where that cannot be done."""
    if source.dtype == np.float16:  # cuDF has none
        return None
    try:
        import cudf
    except ImportError:
        return None
    columns = CudfColumns(source.vectors.names, source.vectors.lists, source.dtype, {})
    pieces = _row_groups(source, start, stop)
    for piece in pieces:
        numbers = (piece.stop - piece.start) * source.n_dims
        if numbers > _MOST_NUMBERS or numbers * source.dtype.itemsize * _DECODING > runtime.free_bytes():
            return None  # the host decodes it batch by batch
    parts = []
    for piece in pieces:
        try:
            frame = cudf.read_parquet(
                piece.path,
                columns=list(columns.labels),
                row_groups=[piece.groups],
                use_pandas_metadata=False,  # or an index comes along
                dataset_kwargs={"partitioning": None},  # or what the folders are called does
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{piece.path} cannot be decoded on the GPU ({error}): write it again, or give device='cpu'."
            ) from error
        rows = cudf_vectors(frame, columns, source.n_dims, piece.start, source.name)
        rows = rows[max(0, start - piece.start) : stop - piece.start]
        parts.append(rows.astype(source.dtype, copy=False))
    return parts[0] if len(parts) == 1 else runtime.xp.concatenate(parts)


@dataclass(frozen=True)
class _RowGroups:
    """Neighbouring row groups of one file, which hold rows `start` to `stop` of the whole."""

    path: str
    groups: list[int]
    start: int
    stop: int


def _row_groups(source: ParquetSource, start: int, stop: int) -> list[_RowGroups]:
    """Return the row groups that hold a range of rows, file by file."""
    edges = source._edges
    first = int(np.searchsorted(edges, start, "right")) - 1
    last = int(np.searchsorted(edges, stop, "left"))
    files = source._groups[first:last, 0]
    pieces = []
    for file in np.unique(files):
        of_file = first + np.flatnonzero(files == file)
        groups = source._groups[of_file, 1].tolist()
        pieces.append(_RowGroups(source.paths[file], groups, int(edges[of_file[0]]), int(edges[of_file[-1] + 1])))
    return pieces


def check_finite(rows: Any, start: int, name: str, runtime: Runtime) -> None:
    """Check on the device that a block of rows has no NaN and no infinity.

    Parameters
    ----------
    rows : array (n, n_dims)
    start : int
        Number of the first of them in the whole.
    name : str
        How messages call the source.
    runtime : Runtime

    Raises
    ------
    InputError
        Names the first row that has one, as `nomad_dask.sources.validation.check_finite` does.
    """
    if rows.dtype.kind != "f":
        return
    finite = runtime.xp.isfinite(rows).all(axis=1)
    if bool(finite.all()):
        return
    first = int(finite.argmin())
    host_rows.check_finite(runtime.download(rows[first : first + 1]), start + first, name)


def to_float32(rows: Any, metric: str, runtime: Runtime) -> Any:
    """Return rows as the method sees them: float32 on the device, of unit length for cosine.

    The input, on the device or the host, stays as it is; a row of zeros too.
    """
    xp = runtime.xp
    if isinstance(rows, np.ndarray):
        rows = runtime.upload(rows)
    if metric != "cosine":
        return rows.astype(xp.float32, copy=False)
    rows = rows.astype(xp.float32)
    lengths = xp.sqrt(xp.einsum("ij,ij->i", rows, rows))
    rows /= xp.where(lengths == 0, xp.float32(1), lengths)[:, None]
    return rows


def gather_to_host(rows: Any, order: np.ndarray, runtime: Runtime) -> np.ndarray:
    """Return some rows, in the order of their numbers, on the host; the only copy that leaves the device."""
    if isinstance(rows, np.ndarray):
        return np.asarray(rows[order])
    return runtime.download(rows[runtime.upload(order)])
