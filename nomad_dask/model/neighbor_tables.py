"""Neighbors as tables, in the forms that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.maps.table import arrow_array

if TYPE_CHECKING:
    import pyarrow as pa

Part = tuple[np.ndarray, np.ndarray]
"""Distances float32 (n, k) and indices int64 (n, k) of consecutive rows; inf and -1 where there are fewer."""
# Rows of a table, and so of a row group, take about this much memory.
_TABLE_BYTES = 32 << 20
_BYTES_PER_NEIGHBOR = 20


def check_form(form: str) -> None:
    """Check the name of a form of tables.

    Raises
    ------
    InputError
    """
    if form not in FORMS:
        raise InputError(f"form={form!r} is not accepted. {suggest(str(form), FORMS)}")


def table_schema(form: str, k: int) -> pa.Schema:
    """Return the columns of the tables of a form, for lists of k neighbors."""
    return FORMS[form](0, (np.empty((0, k), np.float32), np.empty((0, k), np.int64))).schema


def neighbor_tables(parts: Iterable[Part], form: str) -> Iterator[pa.Table]:
    """Yield tables of consecutive rows, of bounded size.

    Parameters
    ----------
    parts : iterable of (distances, indices)
        Of consecutive rows.
    form : {'lists', 'edges', 'embedding-atlas'}
        ``'lists'``: a row of the table for each row, with the columns ``neighbors`` and ``distances`` of lists of a
        fixed size. ``'edges'``: a row for each neighbor, with the columns ``source``, ``destination``, as cuGraph calls
        them, and ``distance``. ``'embedding-atlas'``: a row for each row, with the column ``neighbors`` of that
        program: the lists ``ids`` and ``distances``.
    """
    first = 0
    for distances, indices in parts:
        step = max(1, _TABLE_BYTES // (_BYTES_PER_NEIGHBOR * max(1, indices.shape[1])))
        for start in range(0, len(indices), step):
            rows = slice(start, start + step)
            yield FORMS[form](first + start, (distances[rows], indices[rows]))
        first += len(indices)


def _lists(first_row: int, part: Part) -> pa.Table:
    import pyarrow as pa

    distances, indices = part
    k = indices.shape[1]
    columns = {}
    for name, values in (("neighbors", indices), ("distances", distances)):
        kind = pa.list_(pa.field("element", pa.from_numpy_dtype(values.dtype)), k)
        columns[name] = pa.Array.from_buffers(kind, len(values), [None], children=[arrow_array(values)])
    return pa.table(columns)


def _edges(first_row: int, part: Part) -> pa.Table:
    import pyarrow as pa

    distances, indices = part
    rows, ranks = np.nonzero(indices >= 0)
    return pa.table({
        "source": arrow_array(first_row + rows.astype(np.int64)),
        "destination": arrow_array(indices[rows, ranks]),
        "distance": arrow_array(distances[rows, ranks]),
    })  # fmt: skip


def _embedding_atlas(first_row: int, part: Part) -> pa.Table:
    import pyarrow as pa

    distances, indices = part
    found = indices >= 0
    ends = arrow_array(np.append(0, np.cumsum(found.sum(axis=1))).astype(np.int32))
    lists = [pa.ListArray.from_arrays(ends, arrow_array(values[found])) for values in (indices, distances)]
    return pa.table({"neighbors": pa.StructArray.from_arrays(lists, ["ids", "distances"])})


FORMS: dict[str, Callable[[int, Part], pa.Table]] = {
    "lists": _lists,
    "edges": _edges,
    "embedding-atlas": _embedding_atlas,
}
