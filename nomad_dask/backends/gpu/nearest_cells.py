"""The centers nearest to points, and the cells nearest to cells, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime

MAX_LISTED_COLUMNS = 1024
"""Up to this many columns are selected with lists; more by sorting."""
_TILE_BYTES = 1 << 28
_UNIT = 2.0**-23


def nearest_columns(points: Any, centers: Any, n_nearest: int, runtime: Runtime) -> Any:
    """Return the indices int32 (n, n_nearest) of the centers nearest to each point by products, nearest first.

    Parameters
    ----------
    points, centers : array of float32 (n, d), (m, d)
        On the device, around the origin, because products of numbers far from it are less precise.
    n_nearest : int
        At most m.
    runtime : Runtime
        Holds the products (n, m), and a copy of them if there are many nearest ones.
    """
    if n_nearest > min(MAX_LISTED_COLUMNS, len(centers) // 2):
        return _sort_columns(points, centers, n_nearest, runtime)
    return _list_columns(points, centers, (centers * centers).sum(axis=1), n_nearest, runtime)[1]


def nearest_cells(centers: Any, cells: np.ndarray, m: int, runtime: Runtime) -> Any:
    """Return the `m` nearest cells of some cells on the device: those by distances in float32, without exception.

    Products select candidates, of which the nearest by distances are kept. Where rounding of the products could have
    left out one of these, a cell is compared with all others. Cells at equal distances are sorted by number.

    Parameters
    ----------
    centers : array of float32 (n_cells, d)
        The centroids of all cells on the device, around the origin.
    cells : ndarray of int (n,)
        Numbers of the cells.
    m : int
    runtime : Runtime

    Returns
    -------
    array of int32 (n, min(m, n_cells))
        Nearest first.
    """
    xp, n_cells = runtime.xp, len(centers)
    m = min(m, n_cells)
    picked = runtime.upload(np.asarray(cells, np.int32))
    nearest = xp.empty((len(cells), m), np.int32)
    tile_bytes = min(_TILE_BYTES, runtime.free_bytes() // 8)
    if m > MAX_LISTED_COLUMNS:
        doubles = centers.astype(np.float64)
        tile_rows = max(1, tile_bytes // (24 * n_cells))  # for products, values and their order
        for start in range(0, len(cells), tile_rows):
            part = slice(start, start + tile_rows)
            nearest[part] = _sort_columns(doubles[picked[part]], doubles, m, runtime)
        return nearest
    norms = (centers * centers).sum(axis=1)
    is_certain = xp.ones(len(cells), np.bool_)
    tile_rows = max(1, tile_bytes // (4 * n_cells))
    for start in range(0, len(cells), tile_rows):
        part = slice(start, start + tile_rows)
        points, n_candidates = centers[picked[part]], min(n_cells, m + m // 4 + 8)
        values, candidates = _list_columns(points, centers, norms, n_candidates, runtime)
        nearest[part], farthest = _rank(points, centers, candidates, m, runtime)
        if n_candidates < n_cells:
            is_certain[part] = _excludes_others(norms[picked[part]], farthest, values[:, -1], centers.shape[1], xp)
    for uncertain in _split(runtime.download(xp.flatnonzero(~is_certain)), tile_rows):
        rows = runtime.upload(uncertain)
        points, all_cells = centers[picked[rows]], xp.arange(n_cells, dtype=np.int32)[None, :]
        nearest[rows], _ = _rank(points, centers, xp.repeat(all_cells, len(rows), axis=0), m, runtime)
    return nearest


def _list_columns(points: Any, centers: Any, norms: Any, n_kept: int, runtime: Runtime) -> tuple[Any, Any]:
    """Return the smallest ``norms - 2 · products`` (n, n_kept) of each point, ascending, and their columns int32."""
    xp, n = runtime.xp, len(points)
    values, columns = xp.full((n, n_kept), np.inf, np.float32), xp.full((n, n_kept), -1, np.int32)
    runtime.launch(
        "select_columns", 2, 32 * n, points @ centers.T, norms, np.int64(n), np.int64(len(centers)),
        np.int32(n_kept), values, columns,
    )  # fmt: skip
    return values, columns


def _sort_columns(points: Any, centers: Any, n_kept: int, runtime: Runtime) -> Any:
    """Return the columns int32 (n, n_kept) of the smallest ``norms - 2 · products`` of each point, ascending."""
    values = (centers * centers).sum(axis=1) - 2 * (points @ centers.T)
    return runtime.xp.argsort(values, axis=1, kind="stable")[:, :n_kept].astype(np.int32)


def _rank(points: Any, centers: Any, candidates: Any, m: int, runtime: Runtime) -> tuple[Any, Any]:
    """Return the nearest `m` of the candidates of each point, and the largest of their squared distances (n,)."""
    xp, (n, n_candidates) = runtime.xp, candidates.shape
    distances, nearest = xp.full((n, m), np.inf, np.float32), xp.full((n, m), -1, np.int32)
    runtime.launch(
        "rank_candidates", 2, 32 * n, points, centers, None, candidates, np.int64(n), np.int32(n_candidates),
        np.int32(centers.shape[1]), np.int32(m), distances, nearest,
    )  # fmt: skip
    return nearest, distances[:, -1]


def _excludes_others(squares: Any, farthest: Any, last_values: Any, n_dims: int, xp: Any) -> Any:
    """Return whether (n,) every center that is no candidate of a point is farther than the nearest found ones.

    A center at most as far as these, at distance √farthest, has a norm up to that of the point plus √farthest. So the
    rounding error of its value, a sum of products of both norms, is at most `error`, and the value that of the last
    candidate or more.

    Parameters
    ----------
    squares, farthest, last_values : array of float32 (n,)
        Squared norms of the points, squared distances of the farthest of the nearest centers, and the values of the
        last candidates, ``norms - 2 · products``.
    n_dims : int
    xp : module
    """
    error = (n_dims + 8) * _UNIT * (2 * xp.sqrt(squares) + xp.sqrt(farthest)) ** 2
    return farthest < squares + last_values - error


def _split(rows: np.ndarray, n: int) -> list[np.ndarray]:
    """Return rows in parts of at most `n`."""
    return [rows[start : start + n] for start in range(0, len(rows), n)]
