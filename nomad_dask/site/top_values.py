"""The most frequent values of a column, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# Different values, and their bytes, in memory before rare ones are dropped.
_MAX_VALUES = 2_000_000
_MAX_BYTES = 128 << 20


@dataclass(frozen=True)
class TopValues:
    """The most frequent values.

    Attributes
    ----------
    labels : tuple of (str, int)
        Values with their exact numbers of rows, the most frequent first, then by name.
    other, none : int
        Number of rows with another value, and with null.
    """

    labels: tuple[tuple[str, int], ...]
    other: int
    none: int


def count_values(
    read: Callable[[], Iterator[pa.Array]],
    n_labels: int,
    max_distinct: int | None = None,
    max_values: int = _MAX_VALUES,
) -> TopValues | None:
    """Count values and return the most frequent ones.

    Parameters
    ----------
    read : callable
        Yields the values, as text, from the beginning.
    n_labels : int
        Number of values to return.
    max_distinct : int, optional
        Return None if there are more different values.
    max_values : int
        Maximum number of different values in memory. If there are more, values that are rarer than one row in
        `max_values` / 2 may be missed (Misra and Gries), but all counts are exact.

    Returns
    -------
    TopValues or None
    """
    import pyarrow.compute as pc

    held, pending, dropped, none, total = _table([], []), [], False, 0, 0
    waiting = 0
    for array in read():
        total += len(array)
        none += array.null_count
        counts = pc.value_counts(array.drop_null())
        pending.append(_table(counts.field("values"), counts.field("counts")))
        waiting += len(counts)
        if waiting < max(1 << 16, held.num_rows):
            continue
        held, pending, waiting = _merge([held, *pending]), [], 0
        if max_distinct is not None and held.num_rows > max_distinct:
            return None
        if held.num_rows > max_values or held.nbytes > _MAX_BYTES:
            held, dropped = _drop_rare(held), True
    held = _merge([held, *pending])
    if max_distinct is not None and held.num_rows > max_distinct:
        return None
    if dropped:
        held = _count_exactly(read, held, n_labels)
    held = held.sort_by([("n", "descending"), ("value", "ascending")]).slice(0, n_labels)
    labels = tuple(zip(held.column("value").to_pylist(), held.column("n").to_pylist(), strict=True))
    return TopValues(labels, total - none - sum(n for _, n in labels), none)


def _table(values: pa.Array | list[str], counts: pa.Array | list[int]) -> pa.Table:
    import pyarrow as pa

    # Offsets of 64 bits: all labels together may be longer than 2 GB.
    return pa.table({"value": pa.array(values).cast(pa.large_string()), "n": pa.array(counts).cast(pa.int64())})


def _merge(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    sums = pa.concat_tables(tables).group_by("value").aggregate([("n", "sum")])
    return sums.rename_columns({"n_sum": "n"}).select(["value", "n"])


def _drop_rare(held: pa.Table) -> pa.Table:
    """Subtract the median count from all counts, and drop the values without a positive count."""
    import pyarrow.compute as pc

    counts = held.column("n").to_numpy()
    median = int(np.partition(counts, len(counts) // 2)[len(counts) // 2])
    reduced = held.set_column(1, "n", pc.subtract(held.column("n"), median))
    return reduced.filter(pc.greater(reduced.column("n"), 0))


def _count_exactly(read: Callable[[], Iterator[pa.Array]], held: pa.Table, n_labels: int) -> pa.Table:
    """Return the most frequent candidates with their exact counts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    candidates = held.sort_by([("n", "descending"), ("value", "ascending")]).slice(0, 16 * n_labels)
    values = candidates.column("value").combine_chunks().cast(pa.string())
    counts = np.zeros(len(values), np.int64)
    for array in read():
        indices = pc.index_in(array, value_set=values).drop_null().to_numpy(zero_copy_only=False)
        counts += np.bincount(indices, minlength=len(values))
    return _table(values, pa.array(counts))
