"""Neighbor lists that the user gives: checked, sorted, and written in the order of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nomad_dask.backends.data import TAIL_STRIDE, ListLengths
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.errors import InputError
from nomad_dask.partition.shard_files import GIVEN_ARRAYS, given_file
from nomad_dask.planning.plan import GIVEN_CHUNK_ROWS
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.npy_writer import appended_npy

MAX_WIDTH = 2048
"""Of longer lists in columns, whose lengths are not known before they are read, only as many entries are looked at."""
_BLOCK_BYTES = 32 << 20


class Lists(NamedTuple):
    """The lists of some rows, as they are given.

    Attributes
    ----------
    ids : ndarray of int64 (n, width)
        Row numbers, in any order; the row itself may be among them. -1 with a distance that is not finite means none.
    distances : ndarray of float (n, width)
    """

    ids: np.ndarray
    distances: np.ndarray


def list_lengths(n_neighbors: int, n_tail: int, n_rows: int, width: int | None) -> ListLengths:
    """Return what is kept of lists that have at most `width` neighbors; None for any number."""
    k = min(n_neighbors, n_rows - 1)
    longest = n_rows - 1 if width is None else min(width, n_rows - 1)
    return ListLengths(k, max(0, min(n_tail, (longest - k) // TAIL_STRIDE)))


def clean_lists(given: Lists, first_row: int, n_rows: int, lengths: ListLengths, name: str) -> Lists:
    """Return lists by distance, without the rows themselves, cut or filled up to `lengths.n_ranks`.

    Parameters
    ----------
    given : Lists
        Of consecutive rows.
    first_row : int
        The first of them.
    n_rows : int
        All rows.
    lengths : ListLengths
    name : str
        Where they come from, for messages.

    Returns
    -------
    Lists
        Of uint32 and float32; `NO_ROW` and inf where there are fewer.

    Raises
    ------
    InputError
        A row has a neighbor that does not exist or is named twice, a distance that is negative or not finite, or
        fewer neighbors than `lengths.k`.
    """
    ids, distances = given.ids.astype(np.int64, copy=False), given.distances
    rows = np.arange(first_row, first_row + len(ids))[:, None]
    is_there = (ids != -1) | np.isfinite(distances)
    _check(is_there, given, rows, n_rows, name)
    kept = is_there & (ids != rows)
    counts = kept.sum(axis=1)
    if counts.min(initial=lengths.k) < lengths.k:
        row = int(counts.argmin())
        raise InputError(
            f"{name}: row {first_row + row:,} has {counts[row]} neighbors besides itself, and n_neighbors={lengths.k} "
            f"is wanted: give longer lists, or n_neighbors={max(1, counts[row])}."
        )
    by_distance = np.where(kept, distances, np.inf)
    order = np.argsort(by_distance, axis=1, kind="stable")[:, : lengths.n_ranks]
    width = order.shape[1]
    sorted_ids = np.full((len(ids), lengths.n_ranks), NO_ROW, np.uint32)
    sorted_distances = np.full(sorted_ids.shape, np.inf, np.float32)
    np.copyto(sorted_ids[:, :width], np.take_along_axis(np.where(kept, ids, NO_ROW), order, axis=1), casting="unsafe")
    sorted_distances[:, :width] = np.take_along_axis(by_distance, order, axis=1)
    return Lists(sorted_ids, sorted_distances)


def _check(is_there: np.ndarray, given: Lists, rows: np.ndarray, n_rows: int, name: str) -> None:
    """Raise an error for an entry that cannot be a neighbor."""
    ids, distances = given
    if (entry := _first(is_there & ((ids < 0) | (ids >= n_rows)))) is not None:
        raise InputError(
            f"{name}: row {rows[entry[0], 0]:,} has the neighbor {ids[entry]}, and there are rows 0 to {n_rows - 1:,}: "
            "give the row numbers of the input, counted from 0."
        )
    if (entry := _first(is_there & ~((distances >= 0) & np.isfinite(distances)))) is not None:
        raise InputError(
            f"{name}: row {rows[entry[0], 0]:,} has the distance {distances[entry]} to row {ids[entry]}: give finite "
            "distances from 0 on."
        )
    # What is missing is numbered apart from everything else.
    in_order = np.sort(np.where(is_there, ids, -1 - np.arange(ids.shape[1])), axis=1)
    if (entry := _first(in_order[:, 1:] == in_order[:, :-1])) is not None:
        raise InputError(
            f"{name}: row {rows[entry[0], 0]:,} has the neighbor {in_order[entry]} twice: give every neighbor once."
        )


def _first(found: np.ndarray) -> tuple[int, int] | None:
    """Return row and column of the first true entry (n, width), if there is one."""
    if not found.any():
        return None
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return int(row), int(column)


def save_given_lists(run: RunContext, read: Callable[[int, int], Lists], width: int | None, name: str) -> list[str]:
    """Check all lists, and write them in the order of the input; return the artifacts.

    Parameters
    ----------
    run : RunContext
    read : callable
        Returns the lists of the rows `start` to `stop`.
    width : int or None
        Neighbors in a list at most, if that is known.
    name : str
        Where they come from, for messages.
    """
    n_rows = run.plan.n_rows
    lengths = ListLengths(min(run.params.n_neighbors, n_rows - 1), run.plan.given_tail)
    step = min(GIVEN_CHUNK_ROWS, max(1, _BLOCK_BYTES // (16 * max(lengths.n_ranks, width or MAX_WIDTH))))
    files = [run.file(given_file(array)) for array in GIVEN_ARRAYS]
    with (
        appended_npy(files[0], np.dtype(np.uint32), (lengths.n_ranks,)) as add_ids,
        appended_npy(files[1], np.dtype(np.float32), (lengths.n_ranks,)) as add_distances,
    ):
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            lists = clean_lists(read(start, stop), start, n_rows, lengths, name)
            add_ids(lists.ids)
            add_distances(lists.distances)
    return [given_file(array) for array in GIVEN_ARRAYS]
