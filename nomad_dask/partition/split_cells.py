"""Huge cells in pieces, so that the neighbour search stays bounded whatever the data."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.row_reader import to_float32


def split_oversized_cells(
    vectors: np.ndarray, order: np.ndarray, counts: np.ndarray, limit: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Drop empty cells and cut those of more than `limit` rows; return the rows' order and the cells' sizes.

    Pieces are halves along the cell's widest direction, again and again. Rows that are all alike are cut
    too: any of them is as near as any other.

    Parameters
    ----------
    vectors : ndarray (n, n_dims)
    order : ndarray of int64 (n,)
        Rows sorted by cell.
    counts : ndarray (cells,)
        Rows of each cell.
    limit : int
    metric : str
    """
    pieces = []
    for cell in np.split(order, np.cumsum(counts)[:-1]):
        work = [cell] if len(cell) else []
        while work:
            piece = work.pop()
            if len(piece) <= limit:
                pieces.append(piece)
                continue
            rows = to_float32(vectors[piece], metric)
            rows = rows - rows.mean(axis=0)
            widest = rows[np.abs(rows).sum(axis=1).argmax()]
            ranked = piece[np.argsort(rows @ widest, kind="stable")]
            work += [ranked[len(ranked) // 2 :], ranked[: len(ranked) // 2]]
    return np.concatenate(pieces) if pieces else order, np.array([len(p) for p in pieces], np.int64)
