"""The lists that a neighbor search improves step by step, and its state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_CANDIDATES = 15
"""Neighbors of a neighbor that a round tries, in each direction of the edges."""


@dataclass(frozen=True)
class NeighborLists:
    """The nearest rows found so far for some rows.

    Attributes
    ----------
    ids : ndarray of int32 (n_rows, k)
        Positions within the rows that are searched, nearest first; -1 where fewer than k were found.
    distances : ndarray of float32 (n_rows, k)
        Squared distances, inf where the id is -1.
    is_new : ndarray of uint8 (n_rows, k)
        1 for entries that the last step added.
    """

    ids: np.ndarray
    distances: np.ndarray
    is_new: np.ndarray


@dataclass(frozen=True)
class SearchState:
    """The progress of a search.

    Attributes
    ----------
    recall : float
        Share of the true neighbors found for a sample of rows; 1.0 for an exhaustive search.
    n_probes : int
        Cells searched for each row. If these were split, the number of whole cells with as many rows.
    rounds : int
        NN-descent rounds done.
    max_candidates : int
        Neighbors of a neighbor that the next round tries, in each direction of the edges.
    needs_round : bool
        Whether another round is worth its time.
    """

    recall: float
    n_probes: int
    rounds: int = 0
    max_candidates: int = MAX_CANDIDATES
    needs_round: bool = False
