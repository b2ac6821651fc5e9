"""Vectors in Parquet files."""

from __future__ import annotations

import hashlib
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
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, for_each, open_binary
from nomad_dask.sources.fingerprint import digest_of, file_digest
from nomad_dask.sources.fsspec import PIECE, RangeFile, is_url
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape

_BATCH_BYTES = 4 << 20
# Read at once of a column; of many columns together, each less.
_COLUMN_BUFFER = 1 << 20
_BUFFERS = 64 << 20
_LEAST_BUFFER = 1 << 16
# Rows looked at when a source is opened.
_FIRST_ROWS = 16
# Of more files than this, as many, evenly spread, are looked into for the fingerprint; of all, the footers.
_DIGESTED_FILES = 64
# What is fetched of the end of an object: most footers are smaller.
_REMOTE_TAIL = 1 << 16


class _ParquetRows(FileSource):
    """Rows of one or more Parquet files, in the order of the files.

    Row groups are decoded batch by batch, so that memory does not grow with their size. Every thread
    keeps its place: reading on from where it stopped decodes nothing twice.

    Parameters
    ----------
    paths : sequence of path-like or URL
        At least one.
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.
    name : str
        How messages call the data.
    states : sequence of State, optional
        Those of the files, where they are known from a listing.

    Raises
    ------
    InputError
        A file that is no Parquet file, files whose columns differ, no rows, no column of vectors.
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
        self._reading = PerThread()
        known = for_each(lambda p: with_retries(lambda: file_stat(p), p), self.paths) if states is None else states
        self._known_states = tuple(known)
        first = _footer_of(self.paths[0], self._known_states[0])
        self.vectors = find_vectors(first.schema, column, metadata_columns, name)
        self.dtype = self.vectors.dtype
        self._column_names = [n for n in first.schema.names if n not in self.vectors.names]
        asked = [*self.vectors.names, *(n for n in metadata_columns if n in self._column_names)]

        def look(place: tuple[str, FileStat]) -> tuple[list[int], bytes]:
            footer = _footer_of(*place)
            _check_same(footer.schema, first.schema, asked, place[0], self.paths[0])
            return footer.rows, footer.digest

        others = for_each(look, list(zip(self.paths, self._known_states, strict=True))[1:])
        footers = [(first.rows, first.digest), *others]
        groups = [(i, g, rows) for i, (of_file, _) in enumerate(footers) for g, rows in enumerate(of_file) if rows]
        self._footers = digest_of(digest for _, digest in footers)
        self._groups = np.array([(i, g) for i, g, _ in groups], np.int64).reshape(-1, 2)
        self._edges = np.cumsum([0, *(rows for _, _, rows in groups)])
        check_shape((int(self._edges[-1]), 1), name)
        self.n_rows = int(self._edges[-1])
        some, n_dims = with_retries(self._first_rows, name)
        self.n_rows, self.n_dims = check_shape((self.n_rows, n_dims), name)
        rows_of([some], self.vectors, some.num_rows, n_dims, 0, name)  # bad rows at the beginning are told at once

    def _first_rows(self) -> tuple[pa.RecordBatch, int]:
        batch = next(self._decode(self.vectors.names, 0, _FIRST_ROWS, buffer=_LEAST_BUFFER))
        return batch, first_length(batch, self.vectors, self.name)

    _column_buffer = _COLUMN_BUFFER

    @property
    def _batch_rows(self) -> int:
        return int(np.clip(_BATCH_BYTES // (self.n_dims * self.dtype.itemsize), 16, 1 << 16))

    def _decode(
        self, names: Sequence[str], group: int, batch_rows: int, buffer: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches of some columns from a row group on to the last one."""
        buffer = buffer or int(np.clip(_BUFFERS // len(names), _LEAST_BUFFER, self._column_buffer))
        for i in range(int(self._groups[group, 0]), len(self.paths)):
            of_file = self._groups[group:][self._groups[group:, 0] == i, 1].tolist()
            with _open_file(self.paths[i], self._known_states[i], buffer) as file:
                for g in of_file:
                    # One at a time: over several, batches span them and the next one is read ahead.
                    batches = file.iter_batches(batch_rows, [g], columns=list(names), use_threads=False)
                    missing = file.metadata.row_group(g).num_rows
                    while missing > 0:
                        batch = _next_batch(batches, self.paths[i])
                        missing -= batch.num_rows
                        yield batch.select(list(names))

    def _batches(self, names: tuple[str, ...], start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a range, reading on where this thread stopped if that is the nearest place."""
        kept: dict[Any, _Place] = self._reading.__dict__
        place = kept.pop(names, None)  # one that fails on the way is not taken up again
        group = int(np.searchsorted(self._edges, start, "right")) - 1
        if place is None or not self._edges[group] <= place.row <= start:
            batch_rows = self._batch_rows if names == self.vectors.names else 1 << 16
            place = _Place(int(self._edges[group]), self._decode(names, group, batch_rows))
        yield from place.advance(start, stop)
        kept[names] = place

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Decode the row groups that the range needs."""
        batches = self._batches(self.vectors.names, start, stop) if stop > start else iter(())
        return rows_of(batches, self.vectors, stop - start, self.n_dims, start, self.name)

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the row groups."""
        return [int(edge) for edge in self._edges]

    def slice_rows(self, start: int, stop: int) -> Self:
        """Leave out the files that the rows do not need."""
        part = self._shallow()
        first, last = self._groups_of(start, stop)
        files = self._groups[first:last, 0]
        begin, end = (int(files[0]), int(files[-1]) + 1) if len(files) else (0, 0)
        part.paths, part._known_states = self.paths[begin:end], self._known_states[begin:end]
        part._groups = self._groups[first:last] - np.array([begin, 0], np.int64)
        part._edges = self._edges[first : last + 1]  # still rows of the whole
        part._reading = PerThread()
        return part

    def _groups_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first row group that holds some of the rows, and the one after the last."""
        first = max(0, int(np.searchsorted(self._edges, start, "right")) - 1)
        return first, max(first, min(int(np.searchsorted(self._edges, stop, "left")), len(self._groups)))

    def _states(self, start: int, stop: int) -> list[tuple[str, FileStat]]:
        first, last = self._groups_of(start, stop)
        return [(self.paths[i], self._known_states[i]) for i in np.unique(self._groups[first:last, 0])]

    def _fingerprint(self) -> str:
        """Digest sizes and footers of all files, and some of each; of very many files, of some of them."""
        some = np.unique(np.linspace(0, len(self.paths) - 1, min(len(self.paths), _DIGESTED_FILES)).astype(int))
        digests = for_each(lambda i: file_digest(self.paths[i], self._known_states[i].size), some.tolist())
        sizes = [state.size for state in self._known_states]
        return digest_of(["parquet", self.vectors.names, self._footers, digest_of(sizes), *digests])

    def column_names(self) -> list[str]:
        """Return all columns but those of the vectors."""
        return list(self._column_names)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Decode the named columns only."""

        def table() -> pa.Table:
            return pa.Table.from_batches(list(self._batches(tuple(names), start, stop)))

        return self._steady(table, start, stop)


class ParquetSource(_ParquetRows):
    """Rows of Parquet files on a disk that the workers see."""


class RemoteParquetSource(_ParquetRows):
    """Rows of Parquet files behind URLs, of which only the columns and row groups asked for are fetched."""

    _column_buffer = PIECE


class _Place:
    """How far the reading of some columns has come.

    Attributes
    ----------
    row : int
        The next row that it can give.
    """

    def __init__(self, row: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.row = row
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def advance(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield rows `start` to `stop`, leaving out those before."""
        while self.row < stop:
            batch = next(self._batches) if self._rest is None else self._rest
            begin = max(0, min(start - self.row, batch.num_rows))
            end = min(stop - self.row, batch.num_rows)
            self._rest = batch.slice(end) if end < batch.num_rows else None
            self.row += end
            if begin < end:
                yield batch.slice(begin, end - begin)


class _Footer(NamedTuple):
    """What the end of a Parquet file tells: its columns, the rows of its row groups, and a digest of all that."""

    schema: pa.Schema
    rows: list[int]
    digest: bytes


def _footer_of(path: str, state: FileStat) -> _Footer:
    """Read the end of a file."""
    content = with_retries(lambda: _footer_bytes(path, state.size), path)
    if content is None:
        raise InputError(f"{path} is not a Parquet file, or damaged (no footer). Write it again.")
    with _damage(path, "is not a Parquet file, or damaged"):
        meta = pq.read_metadata(pa.BufferReader(b"PAR1" + content))
        rows = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        schema = meta.schema.to_arrow_schema()
        schema.names  # noqa: B018 - made on demand, and damaged names fail here
    return _Footer(schema, rows, hashlib.blake2b(content, digest_size=16).digest())


def _footer_bytes(path: str, size: int) -> bytes | None:
    """Return the footer with its length and the magic word; None where there is none."""
    with open_binary(path, size) as f:
        # Of a file on disk the length first: a small one would be read whole otherwise, and again for its rows.
        f.seek(max(0, size - (_REMOTE_TAIL if is_url(path) else 8)))
        tail = f.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < 8 or tail[-4:] != b"PAR1" or length > size:
            return None
        if length > len(tail):
            f.seek(size - length)
            tail = f.read(length)
    return tail[-length:]


def _check_same(schema: pa.Schema, first: pa.Schema, names: Sequence[str], path: str, first_path: str) -> None:
    """Check that a file has the columns asked for, and of the types of the first file."""
    for n in names:
        here, there = (s.field(n).type if n in s.names else None for s in (schema, first))
        if here != there:
            raise InputError(
                f"column {n!r} is {there} in {first_path}, and {here or 'missing'} in {path}: "
                "write all files with the same columns."
            )


@contextmanager
def _damage(path: str, what: str = "is damaged") -> Iterator[None]:
    """Say of a file that it is damaged where pyarrow does, and let errors of the storage through."""
    try:
        yield
    except NomadError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # pyarrow calls damage an OSError too, but without a number of the system.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise InputError(f"{path} {what} ({error}). Copy or write it again.") from error


@contextmanager
def _open_file(path: str, state: FileStat, buffer: int) -> Iterator[Any]:
    # Buffered reading keeps a row group larger than memory from being loaded whole.
    place = RangeFile(path, state.size) if is_url(path) else path
    with _damage(path, "is not a Parquet file, or damaged"):
        file = pq.ParquetFile(place, buffer_size=buffer, pre_buffer=False)
    with file:
        yield file


def _next_batch(batches: Iterator[pa.RecordBatch], path: str) -> pa.RecordBatch:
    with _damage(path):
        batch = next(batches, None)
    if batch is None:
        raise InputError(f"{path} is damaged (a row group has fewer rows than it says). Copy or write it again.")
    return batch
