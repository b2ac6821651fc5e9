"""Reads rows of a source to the device, without a detour through the host where possible."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.memory_model import READ_THREADS
from nomad_dask.errors import InputError
from nomad_dask.sources import validation as host_rows
from nomad_dask.sources.base import Source
from nomad_dask.sources.cudf import CudfColumns, cudf_vectors
from nomad_dask.sources.device import DeviceSource
from nomad_dask.sources.npy import NpySource
from nomad_dask.sources.parquet import ParquetSource

# KvikIO reads with one thread, or with as many as cuDF has set; the user may choose another number with one of these.
_THREADS_VARIABLES = {"KVIKIO_NTHREADS", "KVIKIO_NUM_THREADS"}
# cuDF counts the values of a list column in int32.
_MAX_VALUES = 2**31 - 1
# Memory for decoding, relative to the decoded rows: compressed pages, levels, and row offsets.
_DECODING_FACTOR = 3


def read(source: Source, start: int, stop: int, runtime: Runtime) -> Any:
    """Return rows `start` to `stop` of a source as a device array ``(stop - start, n_dims)`` of its dtype.

    A C-ordered ``.npy`` file is read directly to the device if KvikIO is installed, Parquet is decoded there if cuDF
    is installed, and rows on the device stay there. Everything else is read on the host and uploaded. The array may be
    a view of the user's data: never write into it.

    Raises
    ------
    InputError
        As `source.read`, with the same row numbers.
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
    """Read a file directly to the device; return None where that is not possible."""
    if source.fortran_order or not source.stored_dtype.isnative:
        return None
    try:
        import kvikio.defaults
    except ImportError:
        return None
    if kvikio.defaults.get("num_threads") < READ_THREADS and not _THREADS_VARIABLES & os.environ.keys():
        kvikio.defaults.set("num_threads", READ_THREADS)
    rows = runtime.xp.empty((stop - start, source.n_dims), source.dtype)
    width = source.n_dims * source.dtype.itemsize
    # KvikIO copies on its own streams, and earlier work may still use this memory.
    runtime.synchronize()
    with kvikio.CuFile(source.path, "r") as file:
        n_bytes = file.pread(rows, rows.nbytes, source.offset + start * width).get()
    if n_bytes != rows.nbytes:
        return None  # the file was truncated: reading on the host raises the usual error
    return rows


def _read_parquet(source: ParquetSource, start: int, stop: int, runtime: Runtime) -> Any:
    """Decode the row groups of a range on the device; return None where that is not possible."""
    if source.dtype == np.float16:  # cuDF does not support it
        return None
    try:
        import cudf
    except ImportError:
        return None
    columns = CudfColumns(source.vectors.names, source.vectors.lists, source.dtype, {})
    pieces = _row_groups(source, start, stop)
    for piece in pieces:
        n_values = (piece.stop - piece.start) * source.n_dims
        if n_values > _MAX_VALUES or n_values * source.dtype.itemsize * _DECODING_FACTOR > runtime.free_bytes():
            return None  # the host decodes it batch by batch
    parts = []
    for piece in pieces:
        try:
            frame = cudf.read_parquet(
                piece.path,
                columns=list(columns.labels),
                row_groups=[piece.groups],
                use_pandas_metadata=False,  # otherwise an index is added
                dataset_kwargs={"partitioning": None},  # otherwise names of directories become columns
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{piece.path} cannot be decoded on the GPU ({error}): write the file again, or use device='cpu'."
            ) from error
        rows = cudf_vectors(frame, columns, source.n_dims, piece.start, source.name)
        rows = rows[max(0, start - piece.start) : stop - piece.start]
        parts.append(rows.astype(source.dtype, copy=False))
    return parts[0] if len(parts) == 1 else runtime.xp.concatenate(parts)


@dataclass(frozen=True)
class _RowGroups:
    """Adjacent row groups of one file, which contain rows `start` to `stop` of the source."""

    path: str
    groups: list[int]
    start: int
    stop: int


def _row_groups(source: ParquetSource, start: int, stop: int) -> list[_RowGroups]:
    """Return the row groups that contain a range of rows, file by file."""
    edges = source._edges
    first = int(np.searchsorted(edges, start, "right")) - 1
    last = int(np.searchsorted(edges, stop, "left"))
    files = source._groups[first:last, 0]
    pieces = []
    for file in np.unique(files):
        in_file = first + np.flatnonzero(files == file)
        groups = source._groups[in_file, 1].tolist()
        pieces.append(_RowGroups(source.paths[file], groups, int(edges[in_file[0]]), int(edges[in_file[-1] + 1])))
    return pieces


def check_finite(rows: Any, start: int, name: str, runtime: Runtime) -> None:
    """Check on the device that a block of rows contains no NaN or infinity.

    Parameters
    ----------
    rows : array (n, n_dims)
    start : int
        Number of the first row in the source.
    name : str
        Name of the source, for the message.
    runtime : Runtime

    Raises
    ------
    InputError
        Names the first such row, as `nomad_dask.sources.validation.check_finite` does.
    """
    if rows.dtype.kind != "f":
        return
    finite = runtime.xp.isfinite(rows).all(axis=1)
    if bool(finite.all()):
        return
    first = int(finite.argmin())
    host_rows.check_finite(runtime.download(rows[first : first + 1]), start + first, name)


def to_float32(rows: Any, metric: str, runtime: Runtime) -> Any:
    """Return rows as float32 on the device, scaled to unit length for cosine; rows of zeros stay zero.

    The input, on the device or the host, is not modified.
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
    """Return ``rows[order]`` on the host; the only copy from the device."""
    if isinstance(rows, np.ndarray):
        return np.asarray(rows[order])
    return runtime.download(rows[runtime.upload(order)])
