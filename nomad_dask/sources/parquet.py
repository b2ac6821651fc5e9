"""Vectors in Parquet files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nomad_dask.errors import InputError, NomadError
from nomad_dask.sources.arrow import find_vectors, first_length, rows_of
from nomad_dask.sources.base import PerThread
from nomad_dask.sources.batch_cursor import BatchCursor
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, for_each, open_binary
from nomad_dask.sources.fingerprint import digest_of, file_digest
from nomad_dask.sources.fsspec import REQUEST_BYTES, RangeFile, is_url
from nomad_dask.sources.parquet_schema import ColumnTypes
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape

_BATCH_BYTES = 4 << 20
# Bytes of the read buffer of a column, less if all columns together would exceed the total.
_COLUMN_BUFFER = 1 << 20
_MAX_TOTAL_BUFFER = 64 << 20
_MIN_BUFFER = 1 << 16
# Rows checked when a source is opened.
_FIRST_ROWS = 16
# The fingerprint covers the footers of all files, and the content of at most this many, evenly spaced.
_DIGESTED_FILES = 64
_FOOTERS_AT_ONCE = 256
# Bytes fetched from the end of an object; most footers are smaller.
_REMOTE_TAIL = 1 << 16


class _ParquetRows(FileSource):
    """Rows of one or more Parquet files, in the order of the files.

    Row groups are decoded batch by batch, so that memory does not grow with their size. Each thread keeps its
    position: a read that continues where the last one stopped decodes nothing twice.

    Parameters
    ----------
    paths : sequence of path-like or URL
        At least one.
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.
    name : str
        Name of the data in messages.
    states : sequence of FileStat, optional
        Sizes and stamps of the files, if known from a listing.

    Raises
    ------
    InputError
        A file is not a Parquet file, the columns of the files differ, or there are no rows or no column of vectors.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        column: str | None,
        metadata_columns: Sequence[str],
        name: str,
        states: Sequence[FileStat] | None = None,
    ) -> None:
        self.name = name
        self.paths = tuple(map(absolute, paths))
        self._cursors = PerThread()
        if states is None:
            states = for_each(lambda p: with_retries(lambda: file_stat(p), p), self.paths)
        self._file_stats = tuple(states)
        first = _read_footer(self.paths[0], self._file_stats[0])
        vectors = find_vectors(first.schema, column, metadata_columns, name)
        columns = ColumnTypes.of_first(vectors, metadata_columns, first.schema, self.paths[0])
        self._column_names = [n for n in first.schema.names if n not in vectors.names]
        # A few at a time, as the schemas of many files take memory.
        footers = [(first.rows, first.digest)]
        files = list(zip(self.paths, self._file_stats, strict=True))
        for i in range(1, len(files), _FOOTERS_AT_ONCE):
            some = files[i : i + _FOOTERS_AT_ONCE]
            for (path, _), footer in zip(some, for_each(lambda file: _read_footer(*file), some), strict=True):
                columns = columns.add(footer.schema, path)
                footers.append((footer.rows, footer.digest))
        self.vectors, self._carried = columns.vectors, columns.carried
        self.dtype = self.vectors.dtype
        groups = [
            (i, g, rows) for i, (group_rows, _) in enumerate(footers) for g, rows in enumerate(group_rows) if rows
        ]
        self._footers = digest_of(digest for _, digest in footers)
        self._groups = np.array([(i, g) for i, g, _ in groups], np.int64).reshape(-1, 2)
        self._edges = np.cumsum([0, *(rows for _, _, rows in groups)])
        check_shape((int(self._edges[-1]), 1), name)
        self.n_rows = int(self._edges[-1])
        first_batch, n_dims = with_retries(self._first_rows, name)
        self.n_rows, self.n_dims = check_shape((self.n_rows, n_dims), name)
        # Report bad rows at the beginning before any work.
        rows_of([first_batch], self.vectors, first_batch.num_rows, n_dims, 0, name)

    def _first_rows(self) -> tuple[pa.RecordBatch, int]:
        batch = next(self._decode(self.vectors.names, 0, _FIRST_ROWS, buffer=_MIN_BUFFER))
        return batch, first_length(batch, self.vectors, self.name)

    _column_buffer = _COLUMN_BUFFER

    @property
    def _batch_rows(self) -> int:
        return int(np.clip(_BATCH_BYTES // (self.n_dims * self.dtype.itemsize), 16, 1 << 16))

    def _decode(
        self, names: Sequence[str], group: int, batch_rows: int, buffer: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches of some columns, from a row group through the last one."""
        buffer = buffer or int(np.clip(_MAX_TOTAL_BUFFER // len(names), _MIN_BUFFER, self._column_buffer))
        for i in range(int(self._groups[group, 0]), len(self.paths)):
            groups = self._groups[group:][self._groups[group:, 0] == i, 1].tolist()
            with _open_file(self.paths[i], self._file_stats[i], buffer) as file:
                for g in groups:
                    # One at a time: otherwise batches span row groups, and the next group is read ahead.
                    batches = file.iter_batches(batch_rows, [g], columns=list(names), use_threads=False)
                    missing = file.metadata.row_group(g).num_rows
                    while missing > 0:
                        batch = _next_batch(batches, self.paths[i])
                        missing -= batch.num_rows
                        yield batch.select(list(names))

    def _batches(self, names: tuple[str, ...], start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a range, continuing where this thread stopped if that is in the same row group."""
        cursors: dict[Any, BatchCursor] = self._cursors.__dict__
        cursor = cursors.pop(names, None)  # a cursor that fails is not used again
        group = int(np.searchsorted(self._edges, start, "right")) - 1
        if cursor is None or not self._edges[group] <= cursor.row <= start:
            batch_rows = self._batch_rows if names == self.vectors.names else 1 << 16
            cursor = BatchCursor(int(self._edges[group]), self._decode(names, group, batch_rows))
        yield from cursor.advance(start, stop)
        cursors[names] = cursor

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Decode the row groups that the range needs."""
        batches = self._batches(self.vectors.names, start, stop) if stop > start else iter(())
        return rows_of(batches, self.vectors, stop - start, self.n_dims, start, self.name)

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the row groups."""
        return [int(edge) for edge in self._edges]

    def slice_rows(self, start: int, stop: int) -> Self:
        """Drop the files that the rows do not need."""
        part = self._shallow()
        first, last = self._groups_of(start, stop)
        files = self._groups[first:last, 0]
        begin, end = (int(files[0]), int(files[-1]) + 1) if len(files) else (0, 0)
        part.paths, part._file_stats = self.paths[begin:end], self._file_stats[begin:end]
        part._groups = self._groups[first:last] - np.array([begin, 0], np.int64)
        part._edges = self._edges[first : last + 1]  # still row numbers of all files
        part._cursors = PerThread()
        return part

    def _groups_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of row groups that hold the rows."""
        first = max(0, int(np.searchsorted(self._edges, start, "right")) - 1)
        return first, max(first, min(int(np.searchsorted(self._edges, stop, "left")), len(self._groups)))

    def _states(self, start: int, stop: int) -> list[tuple[str, FileStat]]:
        first, last = self._groups_of(start, stop)
        return [(self.paths[i], self._file_stats[i]) for i in np.unique(self._groups[first:last, 0])]

    def _fingerprint(self) -> str:
        """Digest the sizes and footers of all files, and parts of the content of at most `_DIGESTED_FILES`."""
        digested = np.unique(np.linspace(0, len(self.paths) - 1, min(len(self.paths), _DIGESTED_FILES)).astype(int))
        digests = for_each(lambda i: file_digest(self.paths[i], self._file_stats[i].size), digested.tolist())
        sizes = [state.size for state in self._file_stats]
        return digest_of(["parquet", self.vectors.names, self._footers, digest_of(sizes), *digests])

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self.vectors.lists else list(self.vectors.names)

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return list(self._column_names)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Decode the named columns only."""

        def table() -> pa.Table:
            tables = [pa.Table.from_batches([batch]) for batch in self._batches(tuple(names), start, stop)]
            return pa.concat_tables([self._with_common_types(table) for table in tables])

        return self._read_unchanged(table, start, stop)

    def _with_common_types(self, table: pa.Table) -> pa.Table:
        schema = pa.schema([f.with_type(self._carried.get(f.name, f.type)) for f in table.schema])
        try:
            return table if table.schema.equals(schema) else table.cast(schema)
        except pa.ArrowException as error:
            raise InputError(
                f"the columns {', '.join(schema.names)} of {self.name} have values that do not fit one type for all "
                f"files ({error}): write all files with the same types."
            ) from error


class ParquetSource(_ParquetRows):
    """Rows of Parquet files on a disk that all workers can read."""


class RemoteParquetSource(_ParquetRows):
    """Rows of Parquet files behind URLs; only the required columns and row groups are fetched."""

    _column_buffer = REQUEST_BYTES


class _Footer(NamedTuple):
    """The footer of a Parquet file: its columns, the number of rows of each row group, and a digest."""

    schema: pa.Schema
    rows: list[int]
    digest: bytes


def _read_footer(path: str, state: FileStat) -> _Footer:
    """Read the footer of a file."""
    content = with_retries(lambda: _footer_bytes(path, state.size), path)
    if content is None:
        raise InputError(f"{path} is not a Parquet file, or damaged (no footer). Write it again.")
    with _report_damage(path, "is not a Parquet file, or damaged"):
        meta = pq.read_metadata(pa.BufferReader(b"PAR1" + content))
        rows = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        schema = meta.schema.to_arrow_schema()
        schema.names  # noqa: B018 - decoded on demand; damaged names fail here
    return _Footer(schema, rows, hashlib.blake2b(content, digest_size=16).digest())


def _footer_bytes(path: str, size: int) -> bytes | None:
    """Return the footer with its length and the magic number, or None if there is none."""
    with open_binary(path, size) as f:
        # On disk, read only the length first: a small file would otherwise be read completely, and again for its rows.
        f.seek(max(0, size - (_REMOTE_TAIL if is_url(path) else 8)))
        tail = f.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < 8 or tail[-4:] != b"PAR1" or length > size:
            return None
        if length > len(tail):
            f.seek(size - length)
            tail = f.read(length)
    return tail[-length:]


@contextmanager
def _report_damage(path: str, what: str = "is damaged") -> Iterator[None]:
    """Report errors of pyarrow as damage of a file; errors of the storage are raised unchanged."""
    try:
        yield
    except NomadError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # pyarrow also raises OSError for damage, but without an errno.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise InputError(f"{path} {what} ({error}). Copy or write it again.") from error


@contextmanager
def _open_file(path: str, state: FileStat, buffer: int) -> Iterator[Any]:
    # Buffered reading keeps a row group larger than memory from being loaded whole.
    if is_url(path):
        source: Any = RangeFile(path, state.size)
    else:
        file_stat(path)  # pyarrow would wait for a pipe that has taken its place
        source = pa.OSFile(os.fsencode(path))  # the name need not be UTF-8
    with _report_damage(path, "is not a Parquet file, or damaged"):
        file = pq.ParquetFile(source, buffer_size=buffer, pre_buffer=False)
    with file:
        yield file


def _next_batch(batches: Iterator[pa.RecordBatch], path: str) -> pa.RecordBatch:
    with _report_damage(path):
        batch = next(batches, None)
    if batch is None:
        raise InputError(
            f"{path} is damaged (a row group has fewer rows than its metadata says). Copy or write it again."
        )
    return batch
