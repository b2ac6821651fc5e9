"""Neighbors that the user gives: as arrays of any source, a sparse matrix, or columns of the source of the vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.params import Params
from nomad_dask.partition.given_lists import MAX_WIDTH, Lists, list_lengths
from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import digest_of
from nomad_dask.utils.array_types import library_of

if TYPE_CHECKING:
    import pyarrow as pa
    import scipy.sparse as sp

_ACCEPTED = (
    "give (indices, distances), openTSNE's PrecomputedNeighbors, or a sparse matrix (n_samples, n_samples) of distances"
)


@dataclass(frozen=True)
class GivenNeighbors:
    """Neighbors that the user gives, read when they are needed.

    Attributes
    ----------
    name : str
        Where they come from, for messages.
    n_rows : int
    width : int or None
        Neighbors in a list at most, if that is known.
    read : callable
        Returns the `Lists` of the rows `start` to `stop`.
    digest : str
        Changes with the neighbors.
    paths : tuple of str
        Files that are read, which no output may change.
    """

    name: str
    n_rows: int
    width: int | None
    read: Callable[[int, int], Lists]
    digest: str
    paths: tuple[str, ...] = ()

    @property
    def param(self) -> str:
        """The value of `Params.precomputed_knn` that stands for these neighbors."""
        return f"given:{self.digest}"


def resolve_neighbors(given: Any) -> GivenNeighbors | None:
    """Return the neighbors that ``precomputed_knn`` gives; None for None, also as umap-learn's default (None, ...).

    Parameters
    ----------
    given : tuple of array-like, PrecomputedNeighbors, sparse matrix or None
        Arrays may be anything of two dimensions that `nomad_dask.sources.open_source` takes, such as Dask arrays.
        The search index that umap-learn takes as a third element is ignored.

    Raises
    ------
    InputError
        It is something else, or its arrays do not match.
    """
    if given is None:
        return None
    if type(given).__module__.startswith("scipy.sparse"):
        return _of_matrix(given)
    if library_of(given) == "openTSNE" and hasattr(given, "indices") and hasattr(given, "distances"):
        given = given.indices, given.distances
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise InputError(f"precomputed_knn is a {type(given).__name__}, which is not accepted: {_ACCEPTED}.")
    if all(part is None for part in given):
        return None
    return _of_arrays(given[0], given[1])


def choose_neighbors(given: Any, source: Source, columns: Sequence[str]) -> GivenNeighbors | None:
    """Return the neighbors that are given, as ``precomputed_knn`` or in columns of the source; None if none are."""
    if given is not None and columns:
        raise InputError(
            f"precomputed_knn and the column {columns[0]!r} of neighbors are both given: leave out one of them."
        )
    return neighbors_of_columns(source, columns) if columns else resolve_neighbors(given)


def _of_arrays(indices: Any, distances: Any) -> GivenNeighbors:
    from nomad_dask.sources import open_source

    opened = []
    for name, array in (("indices", indices), ("distances", distances)):
        try:
            opened.append(open_source(array))
        except InputError as error:
            raise InputError(f"The {name} of precomputed_knn are not accepted: {error}") from error
    ids, lengths = opened
    if (ids.n_rows, ids.n_dims) != (lengths.n_rows, lengths.n_dims):
        raise InputError(
            f"precomputed_knn has indices of shape {(ids.n_rows, ids.n_dims)} and distances of shape "
            f"{(lengths.n_rows, lengths.n_dims)}: give a distance for each index."
        )
    if ids.dtype.kind not in "iu":
        raise InputError(
            f"precomputed_knn has indices of dtype {ids.dtype}: give whole numbers first, then the distances."
        )
    return GivenNeighbors(
        name="precomputed_knn",
        n_rows=ids.n_rows,
        width=ids.n_dims,
        read=lambda start, stop: Lists(ids.read(start, stop).astype(np.int64), lengths.read(start, stop)),
        digest=digest_of([source.fingerprint() for source in opened]),
        paths=tuple(path for source in opened for path in source.local_paths()),
    )


def _of_matrix(matrix: Any) -> GivenNeighbors:
    """Return the neighbors that a sparse matrix of distances holds: also those of which it stores a zero."""
    n_rows = matrix.shape[0]
    if matrix.ndim != 2 or matrix.shape != (n_rows, n_rows) or matrix.dtype.kind not in "iuf":
        raise InputError(
            f"precomputed_knn is a sparse matrix of shape {matrix.shape} and dtype {matrix.dtype}: give distances of "
            "shape (n_samples, n_samples), as from kneighbors_graph(mode='distance')."
        )
    rows: sp.csr_array = matrix.tocsr()

    def read(start: int, stop: int) -> Lists:
        ends = rows.indptr[start : stop + 1]
        part = slice(ends[0], ends[-1])
        return padded(np.asarray(ends, np.int64) - ends[0], rows.indices[part], rows.data[part])

    content = [np.ascontiguousarray(array).tobytes() for array in (rows.indptr, rows.indices, rows.data)]
    return GivenNeighbors(
        "precomputed_knn", n_rows, int(np.diff(rows.indptr).max(initial=0)), read, digest_of(map(_hash, content))
    )


def _hash(content: bytes) -> str:
    import hashlib

    return hashlib.blake2b(content, digest_size=16).hexdigest()


def neighbors_of_columns(source: Source, columns: Sequence[str]) -> GivenNeighbors:
    """Return the neighbors in columns of a source, which was opened with them as columns to carry along.

    Parameters
    ----------
    source : Source
    columns : sequence of str
        One column of structures of ``ids`` and ``distances``, as embedding-atlas has them, or two: of lists of row
        numbers, and of lists of distances.

    Raises
    ------
    InputError
        A column does not exist or holds something else.
    """
    available = source.column_names()
    for name in columns:
        if name not in available:
            raise InputError(f"{source.name} has no column {name!r} of neighbors. {suggest(name, available)}")
    schema = source.column_schema(columns)
    name = f"{' and '.join(map(repr, columns))} of {source.name}"
    _check_types(schema, columns, name)

    def read(start: int, stop: int) -> Lists:
        table = source.columns(list(columns), start, stop).combine_chunks()
        arrays = [_only_chunk(table, column) for column in columns]
        ids, distances = (arrays[0].field(name) for name in _FIELDS) if len(arrays) == 1 else arrays
        for array in (*arrays, ids, distances):
            if array.null_count:
                row = start + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                raise InputError(f"{name}: row {row:,} has no list: give one for each row.")
        ends, flat_ids = _flat(ids)
        distance_ends, flat_distances = _flat(distances)
        if not np.array_equal(ends, distance_ends):
            row = start + int(np.flatnonzero(ends != distance_ends)[0]) - 1
            raise InputError(f"{name}: row {row:,} has lists of different lengths: give a distance for each neighbor.")
        return padded(*_cut(ends, flat_ids, flat_distances))

    digest = digest_of([source.fingerprint(), *columns])
    return GivenNeighbors(name, source.n_rows, _fixed_width(schema), read, digest)


_FIELDS = ("ids", "distances")


def _check_types(schema: pa.Schema, columns: Sequence[str], name: str) -> None:
    """Raise an error for columns that do not hold neighbors and distances."""
    import pyarrow as pa

    kinds = [schema.field(column).type for column in columns]
    if len(kinds) == 1 and pa.types.is_struct(kinds[0]) and all(kinds[0].get_field_index(f) >= 0 for f in _FIELDS):
        kinds = [kinds[0].field(field).type for field in _FIELDS]
    values = [kind.value_type if _is_list(kind) else pa.null() for kind in kinds]
    is_number = pa.types.is_floating, pa.types.is_integer
    if len(values) != 2 or not pa.types.is_integer(values[0]) or not any(test(values[1]) for test in is_number):
        found = ", ".join(str(schema.field(column).type) for column in columns)
        raise InputError(
            f"{name} holds {found}: give a column of structures with the lists ids and distances, or two columns, of "
            "lists of row numbers and of lists of distances, such as neighbors,distances."
        )


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _fixed_width(schema: pa.Schema) -> int | None:
    """Return the length of lists of a fixed size; None for others."""
    import pyarrow as pa

    kind = schema.field(0).type
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _only_chunk(table: pa.Table, column: str) -> Any:
    chunked = table.column(column)
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def _flat(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where the lists of an array end, from 0 on, and their values; a missing value is NaN, or -1."""
    import pyarrow as pa

    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    values = lists.flatten()
    missing = -1 if pa.types.is_integer(values.type) else float("nan")
    filled = values.fill_null(missing) if values.null_count else values
    return np.append(0, np.cumsum(lengths, dtype=np.int64)), filled.to_numpy(zero_copy_only=False)


def _cut(ends: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lists, of which those of more than `MAX_WIDTH` entries keep so many, the nearest."""
    lengths = np.diff(ends)
    if lengths.max(initial=0) <= MAX_WIDTH:
        return ends, ids, distances
    is_kept = np.ones(len(ids), bool)
    for row in np.flatnonzero(lengths > MAX_WIDTH):
        part = slice(ends[row], ends[row + 1])
        is_kept[part] = False
        is_kept[ends[row] + np.argpartition(distances[part], MAX_WIDTH)[:MAX_WIDTH]] = True
    return np.append(0, np.cumsum(np.minimum(lengths, MAX_WIDTH))), ids[is_kept], distances[is_kept]


def padded(ends: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> Lists:
    """Return lists of any lengths, filled up with -1 and inf.

    Parameters
    ----------
    ends : ndarray of int64 (n + 1,)
        The list of row i are the entries ``ends[i]`` to ``ends[i + 1]``.
    ids, distances : ndarray (n_entries,)
    """
    lengths = np.diff(ends)
    is_there = np.arange(lengths.max(initial=0)) < lengths[:, None]
    all_ids, all_distances = np.full(is_there.shape, -1, np.int64), np.full(is_there.shape, np.inf)
    all_ids[is_there], all_distances[is_there] = ids, distances
    return Lists(all_ids, all_distances)


def check_given_neighbors(source: Source, params: Params, given: GivenNeighbors | None) -> None:
    """Check that given neighbors belong to the rows and the parameters of a run.

    Raises
    ------
    InputError
    """
    if not params.has_given_neighbors:
        return
    if given is None:
        raise InputError(
            f"precomputed_knn={params.precomputed_knn!r} stands for neighbors that are missing: give the neighbors "
            "themselves."
        )
    if given.n_rows != source.n_rows:
        raise InputError(
            f"{given.name} has the neighbors of {given.n_rows:,} rows, and {source.name} has {source.n_rows:,}: give "
            "those of every row, in the order of the rows."
        )
    wanted = min(params.n_neighbors, source.n_rows - 1)
    if given.width is not None and given.width < wanted:
        raise InputError(
            f"{given.name} has lists of {given.width} neighbors, and n_neighbors={wanted} is wanted: give longer "
            f"lists, or n_neighbors={max(1, given.width)}."
        )


def tail_of_given(params: Params, given: GivenNeighbors | None) -> int:
    """Return the entries of the tail that given lists are long enough for; see `Plan.given_tail`."""
    if given is None:
        return 0
    return list_lengths(params.n_neighbors, params.n_tail_neighbors, given.n_rows, given.width).n_tail
