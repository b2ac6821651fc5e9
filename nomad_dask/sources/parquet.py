"""Vectors in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nomad_dask.errors import InputError
from nomad_dask.sources.base import PerThread, Source
from nomad_dask.sources.digest import digest_of, file_digest
from nomad_dask.sources.rows import check_shape
from nomad_dask.sources.tables import find_vectors, first_length, rows_of

_BATCH_BYTES = 4 << 20
_FILE_BUFFER = 1 << 20


class ParquetSource(Source):
    """Rows of one or more Parquet files, in the order of the files.

    Row groups are decoded batch by batch, so that memory does not grow with their size. Every thread
    keeps its place: reading on from where it stopped decodes nothing twice.

    Parameters
    ----------
    paths : sequence of path-like
        At least one.
    column, keep
        As in `nomad_dask.sources.tables.find_vectors`.
    name : str
        How messages call the data.

    Raises
    ------
    InputError
        A file that is no Parquet file, files whose columns differ, no rows, no column of vectors.
    """

    def __init__(self, paths: Sequence[Path], column: str | None, keep: Sequence[str], name: str) -> None:
        self.name = name
        self.paths = tuple(str(Path(p).absolute()) for p in paths)
        self._reading = PerThread()
        schemas = []
        groups: list[tuple[int, int, int]] = []  # file, row group in it, rows
        for i, path in enumerate(self.paths):
            with _open_file(path) as file:
                schemas.append(file.schema_arrow)
                meta = file.metadata
                groups += [(i, g, meta.row_group(g).num_rows) for g in range(meta.num_row_groups)]
        self.vectors = find_vectors(schemas[0], column, keep, name)
        self.dtype = self.vectors.dtype
        self._column_names = [n for n in schemas[0].names if n not in self.vectors.names]
        self._check_same(schemas, [*self.vectors.names, *(n for n in keep if n in self._column_names)])
        self._groups = np.array([(i, g) for i, g, rows in groups if rows], np.int64).reshape(-1, 2)
        self._edges = np.cumsum([0, *(rows for _, _, rows in groups if rows)])
        check_shape((int(self._edges[-1]), 1), name)
        first = next(self._decode(self.vectors.names, 0, batch_rows=1))
        n_dims = first_length(first, self.vectors, name)
        self.n_rows, self.n_dims = check_shape((int(self._edges[-1]), n_dims), name)
        self.read(0, min(int(self._edges[1]), self._batch_rows))  # bad rows at the beginning are told at once

    @property
    def _batch_rows(self) -> int:
        return int(np.clip(_BATCH_BYTES // (self.n_dims * self.dtype.itemsize), 16, 1 << 16))

    def _check_same(self, schemas: Sequence[pa.Schema], names: Sequence[str]) -> None:
        """Check that all files have the columns asked for, and of the same types."""
        for path, schema in zip(self.paths[1:], schemas[1:], strict=True):
            for n in names:
                here, first = (s.field(n).type if n in s.names else None for s in (schema, schemas[0]))
                if here != first:
                    raise InputError(
                        f"column {n!r} is {first} in {self.paths[0]}, and {here or 'missing'} in {path}: "
                        "write all files with the same columns."
                    )

    def _decode(self, names: Sequence[str], group: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of some columns from a row group on to the last one."""
        for i in range(int(self._groups[group, 0]), len(self.paths)):
            of_file = self._groups[group:][self._groups[group:, 0] == i, 1].tolist()
            with _open_file(self.paths[i]) as file:
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

    def read(self, start: int, stop: int) -> np.ndarray:
        """Decode the row groups that the range needs."""
        batches = self._batches(self.vectors.names, start, stop) if stop > start else iter(())
        return rows_of(batches, self.vectors, stop - start, self.n_dims, start, self.name)

    def breaks(self) -> Sequence[int]:
        """Return the edges of the row groups."""
        return [int(edge) for edge in self._edges]

    def fingerprint(self) -> str:
        """Digest some of each file, in order."""
        return digest_of(["parquet", self.vectors.names, *map(file_digest, self.paths)])

    def column_names(self) -> list[str]:
        """Return all columns but those of the vectors."""
        return list(self._column_names)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Decode the named columns only."""
        return pa.Table.from_batches(list(self._batches(tuple(names), start, stop)))


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


def _open_file(path: str) -> Any:
    try:
        # Buffered reading keeps a row group larger than memory from being loaded whole.
        file = pq.ParquetFile(path, buffer_size=_FILE_BUFFER, pre_buffer=False)
        file.schema_arrow.names  # noqa: B018 - made on demand, and damaged names fail here
        return file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is not a Parquet file, or damaged ({error}). Write it again.") from error


def _next_batch(batches: Iterator[pa.RecordBatch], path: str) -> pa.RecordBatch:
    try:
        return next(batches)
    except StopIteration as error:
        raise InputError(
            f"{path} is damaged (a row group has fewer rows than it says). Copy or write it again."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Copy or write it again.") from error
