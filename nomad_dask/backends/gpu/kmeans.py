"""K-Means by cuML with bounds on the sizes of cells, and the assignment of rows to the cells of a tree."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.base import CellTree
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, TINY

_TILE_BYTES = 1 << 28
# Up to this many cells one level is as quick.
MAX_FLAT_CELLS = 4096
# Rounds of our own after the library's, in which tiny cells move into the largest ones.
_ROUNDS = 4
_HALVING_ROUNDS = 4


class _DeviceClusterer:
    """K-Means by the library of the device; see `kmeans_tree.Clusterer`."""

    def __init__(self, seed: int, runtime: Runtime) -> None:
        self._seed, self._runtime = seed, runtime
        self.max_flat_cells = MAX_FLAT_CELLS

    def upload(self, rows: np.ndarray) -> Any:
        """Return the rows on the device."""
        return self._runtime.upload(rows)

    def fit(self, rows: Any, k: int) -> np.ndarray:
        """Return up to `k` centroids, on the host."""
        return self._runtime.download(_fit(rows.copy(), k, self._seed, self._runtime))

    def fit_bounded(self, rows: Any, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids: more where cells of over `max_rows` rows were split."""
        return _balanced(rows, k, max_rows, self._seed, self._runtime)

    def groups(self, rows: Any, centroids: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield each centroid that is nearest to any row, with those rows, on the device."""
        runtime = self._runtime
        order, offsets = _grouped(nearest(rows, runtime.upload(centroids), runtime), len(centroids), runtime)
        for parent in np.flatnonzero(np.diff(offsets)).tolist():
            yield parent, rows[order[offsets[parent] : offsets[parent + 1]]]


def fit_cells(sample: np.ndarray, n_cells: int, seed: int, runtime: Runtime) -> CellTree:
    """Return about `n_cells` cells of a sample (rows, n_dims) float32: more where cells had to be split."""
    return kmeans_tree.fit_cells(sample, n_cells, _DeviceClusterer(seed, runtime))


def assign(rows: Any, cells: CellTree, runtime: Runtime) -> np.ndarray:
    """Return the cell (rows,) int32 of each row: the nearest among the children of the nearest parents.

    Parameters
    ----------
    rows : array (rows, n_dims)
        On the host or on the device.
    cells : Cells
    runtime : Runtime
    """
    middle = cells.parents.mean(axis=0)
    centroids, parents = runtime.upload(cells.centroids - middle), runtime.upload(cells.parents - middle)
    shift = runtime.upload(middle)
    labels = np.empty(len(rows), np.int32)
    step = max(1, min(1 << 18, runtime.free_bytes() // 8 // (4 * (rows.shape[1] + len(parents)))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float32, copy=False)
        block = (runtime.upload(block) if isinstance(block, np.ndarray) else block) - shift
        if len(parents) <= PARENTS_TRIED:
            found = nearest(block, centroids, runtime)
        else:
            found = _nearest_by_tree(block, centroids, parents, cells.offsets, runtime)
        labels[start : start + step] = runtime.download(found)
    return labels


def nearest(rows: Any, centers: Any, runtime: Runtime) -> Any:
    """Return the index (n,) int32 of the nearest of `centers` (m, d) for each of `rows` (n, d), on the device."""
    xp = runtime.xp
    n, m = len(rows), len(centers)
    best, labels = xp.full(n, np.inf, np.float32), xp.full(n, -1, np.int32)
    norms = (centers * centers).sum(axis=1)
    tile = max(1, min(_TILE_BYTES, runtime.free_bytes() // 8) // 4)
    n_columns = min(m, max(1, tile // 1024))
    n_rows = max(1, tile // n_columns)
    for first in range(0, m, n_columns):
        part = slice(first, first + n_columns)
        for start in range(0, n, n_rows):
            products = rows[start : start + n_rows] @ centers[part].T
            stop = start + len(products)
            _closest(products, norms[part], None, first, best[start:stop], labels[start:stop], runtime)
    return labels


def _closest(products: Any, norms: Any, picks: Any, first: int, best: Any, labels: Any, runtime: Runtime) -> None:
    n, m = products.shape
    runtime.launch(
        "closest_column", 2, 32 * n, products, norms, picks, np.int64(n), np.int64(m), np.int32(first), best, labels
    )  # fmt: skip


def _nearest_by_tree(rows: Any, centroids: Any, parents: Any, offsets: np.ndarray, runtime: Runtime) -> Any:
    xp = runtime.xp
    n, tried = len(rows), PARENTS_TRIED
    best, labels = xp.full(n, np.inf, np.float32), xp.full(n, -1, np.int32)
    near, chosen = xp.full((n, tried), np.inf, np.float32), xp.full((n, tried), -1, np.int32)
    runtime.launch(
        "select_columns", 2, 32 * n, rows @ parents.T, (parents * parents).sum(axis=1), np.int64(n),
        np.int64(len(parents)), np.int32(tried), near, chosen,
    )  # fmt: skip
    order, edges = _grouped(chosen.ravel(), len(parents), runtime)
    norms = (centroids * centroids).sum(axis=1)
    for p in np.flatnonzero(np.diff(edges)).tolist():
        asking = (order[edges[p] : edges[p + 1]] // tried).astype(np.int32)
        first, last = int(offsets[p]), int(offsets[p + 1])
        products = rows[asking] @ centroids[first:last].T
        _closest(products, norms[first:last], asking, first, best, labels, runtime)
    return labels


def _grouped(labels: Any, k: int, runtime: Runtime) -> tuple[Any, np.ndarray]:
    """Return the order that sorts labels, on the device, and on the host where each of `k` begins in it."""
    xp = runtime.xp
    order = xp.argsort(labels, kind="stable")
    edges = xp.searchsorted(labels[order], xp.arange(k + 1, dtype=np.int32))
    return order, runtime.download(edges)


def _fit(rows: Any, k: int, seed: int, runtime: Runtime) -> Any:
    """Return up to `k` centres: the library's, then rounds in which cells that stay tiny get new places."""
    n = len(rows)
    if k >= n:
        return rows.copy()
    centers = runtime.xp.ascontiguousarray(runtime.kmeans(rows, k, seed), dtype=np.float32)
    centers = runtime.xp.where(runtime.xp.isfinite(centers), centers, np.float32(0))
    for round_ in range(_ROUNDS):
        order, edges = _grouped(nearest(rows, centers, runtime), k, runtime)
        centers = _means(rows, order, edges, centers, runtime)
        counts = np.diff(edges)
        tiny = np.flatnonzero(counts < TINY * n / k)
        if not len(tiny):
            break
        if round_ < _ROUNDS - 1:
            centers = _moved(rows, centers, tiny, order, edges, runtime)
    return centers


def _means(rows: Any, order: Any, edges: np.ndarray, centers: Any, runtime: Runtime) -> Any:
    """Return the mean of the rows of each group; a group without rows keeps its centre."""
    xp = runtime.xp
    d = rows.shape[1]
    # Differences of running sums, in float64: in the same order whenever it is done, unlike atomic sums.
    sums = xp.empty((len(edges) - 1, d), np.float64)
    begins, ends = runtime.upload(edges[:-1]), runtime.upload(edges[1:])
    for j in range(d):
        running = xp.concatenate([xp.zeros(1), xp.cumsum(rows[:, j][order].astype(np.float64))])
        sums[:, j] = running[ends] - running[begins]
    counts = (ends - begins)[:, None]
    return xp.where(counts > 0, sums / xp.maximum(counts, 1), centers).astype(np.float32)


def _moved(rows: Any, centers: Any, tiny: np.ndarray, order: Any, edges: np.ndarray, runtime: Runtime) -> Any:
    """Return the centres with each of the tiny cells made one half of one of the largest."""
    moved = runtime.download(centers)
    largest = np.argsort(-np.diff(edges), kind="stable")[: len(tiny)]
    for cell, large in zip(tiny.tolist(), largest.tolist(), strict=True):
        if edges[large + 1] - edges[large] <= 2 or large in tiny:
            continue
        members = runtime.download(rows[order[edges[large] : edges[large + 1]]])
        halves, _ = _halves(members)
        moved[large], moved[cell] = halves
    return runtime.upload(moved)


def _balanced(rows: Any, k: int, limit: float, seed: int, runtime: Runtime) -> np.ndarray:
    """Return the centres (cells, d) float32 of `k` cells or more, those of over `limit` rows cut while rows differ."""
    centers = _fit(rows, k, seed, runtime)
    order, edges = _grouped(nearest(rows, centers, runtime), len(centers), runtime)
    done = list(runtime.download(centers))
    for cell in np.flatnonzero(np.diff(edges) > limit).tolist():
        members = runtime.download(rows[order[edges[cell] : edges[cell + 1]]])
        done[cell], *others = _cut(members, done[cell], limit)
        done += others
    return np.array(done, np.float32)


def _cut(members: np.ndarray, center: np.ndarray, limit: float) -> list[np.ndarray]:
    """Return centres of pieces of a cell, its largest piece halved again and again."""
    done: list[np.ndarray] = []
    number = 0  # settles which of two equal pieces comes first
    work = [(-len(members), number, center, members)]
    while work:
        size, _, middle, rows = heapq.heappop(work)
        halves, second = _halves(rows)
        if -size <= limit or not 0 < second.sum() < len(rows):
            done.append(middle)  # rows that are all alike cannot be split by distance
            continue
        for half, mine in zip(halves, (~second, second), strict=True):
            number += 1
            heapq.heappush(work, (-int(mine.sum()), number, half, rows[mine]))
    return done


def _halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two centres (2, d) of some rows by Lloyd's rounds, and which rows (n,) belong to the second."""
    widest = int(rows.var(axis=0).argmax())
    second = rows[:, widest] > rows[:, widest].mean()
    centers = np.stack([rows.mean(axis=0)] * 2)
    for _ in range(_HALVING_ROUNDS):
        if not 0 < second.sum() < len(rows):
            break
        centers = np.stack([rows[~second].mean(axis=0), rows[second].mean(axis=0)])
        second = (rows - (centers[0] + centers[1]) / 2) @ (centers[1] - centers[0]) > 0
    return centers, second
