"""Anchors, rows of a shard whose positions are known: where to search for those nearest to each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.cell_index import expand_ranges

MAX_NEAREST = 4
"""The nearest anchors of a row that determine its position."""
_MIN_CELLS = 8
_GROWTH = 4


@dataclass(frozen=True)
class SearchedCells:
    """The cells that are searched for the rows of each cell.

    Attributes
    ----------
    offsets : ndarray of int64 (n_cells + 1,)
        Those of cell c are ``cells[offsets[c] : offsets[c + 1]]``: at least one.
    cells : ndarray of int32
    """

    offsets: np.ndarray
    cells: np.ndarray

    def of(self, first: int, last: int) -> np.ndarray:
        """Return the cells, ascending, that are searched for any of the cells `first` to `last`."""
        return np.unique(self.cells[self.offsets[first] : self.offsets[last]])


def cells_to_search(n_anchors: np.ndarray, find_nearest: Callable[[np.ndarray, int], np.ndarray]) -> SearchedCells:
    """Return the cells in which the anchors nearest to the rows of each cell are searched for.

    They are its nearest cells: 8, or as many as contain `MAX_NEAREST` anchors, or as there are anchors.

    Parameters
    ----------
    n_anchors : ndarray of int (n_cells,)
        Anchors of each cell, which may have none.
    find_nearest : callable
        Returns the nearest cells (n, m) int32 of some cells (n,), or all where there are no `m`.
    """
    n_wanted = min(MAX_NEAREST, int(n_anchors.sum()))
    left, width = np.arange(len(n_anchors)), _MIN_CELLS
    n_searched = np.zeros(len(n_anchors), np.int64)
    found = []
    while len(left):
        near = find_nearest(left, width)
        n_needed = 1 + (np.cumsum(n_anchors[near], axis=1) < n_wanted).sum(axis=1)
        enough = n_needed <= near.shape[1]
        n_searched[left[enough]] = np.clip(n_needed[enough], _MIN_CELLS, near.shape[1])
        found.append((left[enough], near[enough]))
        left, width = left[~enough], width * _GROWTH
    offsets = np.concatenate([[0], np.cumsum(n_searched)])
    searched = np.empty(offsets[-1], np.int32)
    for cells, near in found:
        searched[expand_ranges(offsets[cells], n_searched[cells])] = near[
            np.arange(near.shape[1]) < n_searched[cells, None]
        ]
    return SearchedCells(offsets, searched)


def mean_positions(positions: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the means (n, dim) float64 of the positions of anchors, weighted 1, 1/2, 1/3, 1/4.

    Parameters
    ----------
    positions : ndarray of float32 (n_anchors, dim)
    nearest : ndarray of int (n, n_nearest)
        Anchors, nearest first.
    """
    weights = 1 / np.arange(1, nearest.shape[1] + 1)
    weights /= weights.sum()
    means = np.zeros((len(nearest), positions.shape[1]))
    for rank, weight in enumerate(weights):
        means += np.take(positions, nearest[:, rank], axis=0) * weight
    return means
