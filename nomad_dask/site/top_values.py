"""The most frequent values of a column, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# What is held of different values before rare ones are dropped.
_MOST_VALUES = 2_000_000
_MOST_BYTES = 128 << 20


@dataclass(frozen=True)
class TopValues:
    """The most frequent values.

    Attributes
    ----------
    labels : tuple of (str, int)
        With their exact numbers of rows, the most frequent first, then by name.
    other, none : int
        Rows with another value, and with null.
    """

    labels: tuple[tuple[str, int], ...]
    other: int
    none: int


def count_values(
    read: Callable[[], Iterator[pa.Array]],
    most: int,
    give_up: int | None = None,
    most_values: int = _MOST_VALUES,
) -> TopValues | None:
    """Count values and return the most frequent ones.

    Parameters
    ----------
    read : callable
        Gives the values, as text, from the beginning.
    most : int
        How many to return.
    give_up : int, optional
        Return None as soon as there are more different values.
    most_values : int
        Different values to hold. While there are no more, the result is exact. Beyond that, values that are
        rarer than one row in `most_values` / 2 may be missed (Misra and Gries), but all counts are exact.

    Returns
    -------
    Counted or None
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
        held, pending, waiting = _merged([held, *pending]), [], 0
        if give_up is not None and held.num_rows > give_up:
            return None
        if held.num_rows > most_values or held.nbytes > _MOST_BYTES:
            held, dropped = _thinned(held), True
    held = _merged([held, *pending])
    if give_up is not None and held.num_rows > give_up:
        return None
    if dropped:
        held = _counted_again(read, held, most)
    held = held.sort_by([("n", "descending"), ("value", "ascending")]).slice(0, most)
    labels = tuple(zip(held.column("value").to_pylist(), held.column("n").to_pylist(), strict=True))
    return TopValues(labels, total - none - sum(n for _, n in labels), none)


def _table(values: pa.Array | list[str], counts: pa.Array | list[int]) -> pa.Table:
    import pyarrow as pa

    # Offsets of 64 bits: all labels together may be longer than 2 GB.
    return pa.table({"value": pa.array(values).cast(pa.large_string()), "n": pa.array(counts).cast(pa.int64())})


def _merged(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    sums = pa.concat_tables(tables).group_by("value").aggregate([("n", "sum")])
    return sums.rename_columns({"n_sum": "n"}).select(["value", "n"])


def _thinned(held: pa.Table) -> pa.Table:
    """Take the median count from every value, and drop those that have no more left."""
    import pyarrow.compute as pc

    counts = held.column("n").to_numpy()
    middle = int(np.partition(counts, len(counts) // 2)[len(counts) // 2])
    left = held.set_column(1, "n", pc.subtract(held.column("n"), middle))
    return left.filter(pc.greater(left.column("n"), 0))


def _counted_again(read: Callable[[], Iterator[pa.Array]], held: pa.Table, most: int) -> pa.Table:
    """Return the best candidates with their exact counts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    best = held.sort_by([("n", "descending"), ("value", "ascending")]).slice(0, 16 * most)
    known = best.column("value").combine_chunks().cast(pa.string())
    counts = np.zeros(len(known), np.int64)
    for array in read():
        found = pc.index_in(array, value_set=known).drop_null().to_numpy(zero_copy_only=False)
        counts += np.bincount(found, minlength=len(known))
    return _table(known, pa.array(counts))
