"""The progress of a neighbor search."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CANDIDATES = 15
"""Neighbors of a neighbor that a round tries, in each direction of the edges."""


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
