"""Split oversized cells, so that the cost of the neighbor search is bounded for any data."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.row_reader import to_float32


def split_oversized_cells(
    vectors: np.ndarray, order: np.ndarray, counts: np.ndarray, max_rows: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Drop empty cells and split those of more than `max_rows` rows.

    A cell is halved along its widest direction until each part is small enough. Identical rows are split too:
    any of them is as near as any other.

    Parameters
    ----------
    vectors : ndarray (n_rows, n_dims)
    order : ndarray of int64 (n_rows,)
        Rows sorted by cell.
    counts : ndarray (n_cells,)
        Rows of each cell.
    max_rows : int
    metric : str

    Returns
    -------
    order : ndarray of int64 (n_rows,)
        Rows sorted by the resulting cells.
    sizes : ndarray of int64 (n_resulting_cells,)
        Rows of each.
    """
    parts = []
    for cell in np.split(order, np.cumsum(counts)[:-1]):
        pending = [cell] if len(cell) else []
        while pending:
            part = pending.pop()
            if len(part) <= max_rows:
                parts.append(part)
                continue
            rows = to_float32(vectors[part], metric)
            rows = rows - rows.mean(axis=0)
            direction = rows[np.abs(rows).sum(axis=1).argmax()]
            ranked = part[np.argsort(rows @ direction, kind="stable")]
            middle = len(ranked) // 2
            pending += [ranked[middle:], ranked[:middle]]
    return np.concatenate(parts) if parts else order, np.array([len(part) for part in parts], np.int64)
