"""K-Means cells of bounded size on the device, and the assignment of rows to the cells of a tree."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.base import CellTree
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, TINY

MAX_FLAT_CELLS = 4096
"""Up to this many cells a single level is as fast as a tree."""
_TILE_BYTES = 1 << 28
# Rounds after those of the library, in which centers of tiny cells move into the largest cells.
_ROUNDS = 4
_SPLIT_ROUNDS = 4


class _DeviceClusterer:
    """K-Means by the library of the device; see `kmeans_tree.Clusterer`."""

    def __init__(self, seed: int, runtime: Runtime) -> None:
        self._seed, self._runtime = seed, runtime
        self.max_flat_cells = MAX_FLAT_CELLS

    def upload(self, rows: np.ndarray) -> Any:
        """Return the rows on the device."""
        return self._runtime.upload(rows)

    def fit(self, rows: Any, k: int) -> np.ndarray:
        """Return up to `k` centroids on the host."""
        return self._runtime.download(_fit_centers(rows.copy(), k, self._seed, self._runtime))

    def fit_bounded(self, rows: Any, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids on the host: more where cells of over `max_rows` rows were split."""
        return _fit_bounded(rows, k, max_rows, self._seed, self._runtime)

    def groups(self, rows: Any, centroids: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield each centroid that is nearest to any row, with those rows on the device."""
        runtime = self._runtime
        order, offsets = _group(find_nearest(rows, runtime.upload(centroids), runtime), len(centroids), runtime)
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
    cells : CellTree
    runtime : Runtime
    """
    # Distances are computed from products, which lose precision far from the origin.
    center = cells.parents.mean(axis=0)
    centroids, parents = runtime.upload(cells.centroids - center), runtime.upload(cells.parents - center)
    shift = runtime.upload(center)
    labels = np.empty(len(rows), np.int32)
    step = max(1, min(1 << 18, runtime.free_bytes() // 8 // (4 * (rows.shape[1] + len(parents)))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float32, copy=False)
        block = (runtime.upload(block) if isinstance(block, np.ndarray) else block) - shift
        if len(parents) <= PARENTS_TRIED:
            nearest = find_nearest(block, centroids, runtime)
        else:
            nearest = _find_nearest_in_tree(block, centroids, parents, cells.offsets, runtime)
        labels[start : start + step] = runtime.download(nearest)
    return labels


def find_nearest(rows: Any, centers: Any, runtime: Runtime) -> Any:
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
            runtime.launch(
                "closest_column", 2, 32 * len(products), products, norms[part], None, np.int64(len(products)),
                np.int64(products.shape[1]), np.int32(first), best[start:stop], labels[start:stop],
            )  # fmt: skip
    return labels


def _find_nearest_in_tree(rows: Any, centroids: Any, parents: Any, offsets: np.ndarray, runtime: Runtime) -> Any:
    """Return the index (n,) int32 of the nearest child of the `PARENTS_TRIED` nearest parents of each row."""
    xp = runtime.xp
    n, tried = len(rows), PARENTS_TRIED
    best, labels = xp.full(n, np.inf, np.float32), xp.full(n, -1, np.int32)
    distances, chosen = xp.full((n, tried), np.inf, np.float32), xp.full((n, tried), -1, np.int32)
    runtime.launch(
        "select_columns", 2, 32 * n, rows @ parents.T, (parents * parents).sum(axis=1), np.int64(n),
        np.int64(len(parents)), np.int32(tried), distances, chosen,
    )  # fmt: skip
    order, ends = _group(chosen.ravel(), len(parents), runtime)
    norms = (centroids * centroids).sum(axis=1)
    for parent in np.flatnonzero(np.diff(ends)).tolist():
        members = (order[ends[parent] : ends[parent + 1]] // tried).astype(np.int32)
        first, last = int(offsets[parent]), int(offsets[parent + 1])
        products = rows[members] @ centroids[first:last].T
        runtime.launch(
            "closest_column", 2, 32 * len(products), products, norms[first:last], members, np.int64(len(products)),
            np.int64(products.shape[1]), np.int32(first), best, labels,
        )  # fmt: skip
    return labels


def _group(labels: Any, k: int, runtime: Runtime) -> tuple[Any, np.ndarray]:
    """Return the order that sorts labels, on the device, and the offsets (k + 1,) of each label in it, on the host."""
    xp = runtime.xp
    order = xp.argsort(labels, kind="stable")
    offsets = xp.searchsorted(labels[order], xp.arange(k + 1, dtype=np.int32))
    return order, runtime.download(offsets)


def _fit_centers(rows: Any, k: int, seed: int, runtime: Runtime) -> Any:
    """Return up to `k` centers: those of the library, then rounds that move the centers of tiny cells."""
    n = len(rows)
    if k >= n:
        return rows.copy()
    centers = runtime.xp.ascontiguousarray(runtime.kmeans(rows, k, seed), dtype=np.float32)
    centers = runtime.xp.where(runtime.xp.isfinite(centers), centers, np.float32(0))
    for round_ in range(_ROUNDS):
        order, offsets = _group(find_nearest(rows, centers, runtime), k, runtime)
        centers = _compute_means(rows, order, offsets, centers, runtime)
        counts = np.diff(offsets)
        tiny = np.flatnonzero(counts < TINY * n / k)
        if not len(tiny):
            break
        if round_ < _ROUNDS - 1:
            centers = _move_tiny_cells(rows, centers, tiny, order, offsets, runtime)
    return centers


def _compute_means(rows: Any, order: Any, offsets: np.ndarray, centers: Any, runtime: Runtime) -> Any:
    """Return the mean of the rows of each group; a group without rows keeps its center."""
    xp = runtime.xp
    d = rows.shape[1]
    # Differences of cumulative sums in float64: unlike atomic sums, these always add in the same order.
    sums = xp.empty((len(offsets) - 1, d), np.float64)
    begins, ends = runtime.upload(offsets[:-1]), runtime.upload(offsets[1:])
    for j in range(d):
        cumulative = xp.concatenate([xp.zeros(1), xp.cumsum(rows[:, j][order].astype(np.float64))])
        sums[:, j] = cumulative[ends] - cumulative[begins]
    counts = (ends - begins)[:, None]
    return xp.where(counts > 0, sums / xp.maximum(counts, 1), centers).astype(np.float32)


def _move_tiny_cells(
    rows: Any, centers: Any, tiny: np.ndarray, order: Any, offsets: np.ndarray, runtime: Runtime
) -> Any:
    """Return the centers after each tiny cell became one half of one of the largest cells."""
    moved = runtime.download(centers)
    largest = np.argsort(-np.diff(offsets), kind="stable")[: len(tiny)]
    for cell, large in zip(tiny.tolist(), largest.tolist(), strict=True):
        if offsets[large + 1] - offsets[large] <= 2 or large in tiny:
            continue
        members = runtime.download(rows[order[offsets[large] : offsets[large + 1]]])
        halves, _ = _bisect(members)
        moved[large], moved[cell] = halves
    return runtime.upload(moved)


def _fit_bounded(rows: Any, k: int, max_rows: float, seed: int, runtime: Runtime) -> np.ndarray:
    """Return centers (cells, d) float32 of at least `k` cells; cells of over `max_rows` differing rows are split."""
    centers = _fit_centers(rows, k, seed, runtime)
    order, offsets = _group(find_nearest(rows, centers, runtime), len(centers), runtime)
    bounded = list(runtime.download(centers))
    for cell in np.flatnonzero(np.diff(offsets) > max_rows).tolist():
        members = runtime.download(rows[order[offsets[cell] : offsets[cell + 1]]])
        bounded[cell], *others = _split_cell(members, bounded[cell], max_rows)
        bounded += others
    return np.array(bounded, np.float32)


def _split_cell(members: np.ndarray, center: np.ndarray, max_rows: float) -> list[np.ndarray]:
    """Return the centers of the parts of a cell, whose largest part is bisected repeatedly."""
    done: list[np.ndarray] = []
    number = 0  # orders parts of equal size
    queue = [(-len(members), number, center, members)]
    while queue:
        size, _, middle, rows = heapq.heappop(queue)
        halves, second = _bisect(rows)
        if -size <= max_rows or not 0 < second.sum() < len(rows):
            done.append(middle)  # identical rows cannot be split by distance
            continue
        for half, mask in zip(halves, (~second, second), strict=True):
            number += 1
            heapq.heappush(queue, (-int(mask.sum()), number, half, rows[mask]))
    return done


def _bisect(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two centers (2, d) of rows (n, d) by Lloyd's algorithm, and a mask (n,) of the rows of the second."""
    widest = int(rows.var(axis=0).argmax())
    second = rows[:, widest] > rows[:, widest].mean()
    centers = np.stack([rows.mean(axis=0)] * 2)
    for _ in range(_SPLIT_ROUNDS):
        if not 0 < second.sum() < len(rows):
            break
        centers = np.stack([rows[~second].mean(axis=0), rows[second].mean(axis=0)])
        second = (rows - (centers[0] + centers[1]) / 2) @ (centers[1] - centers[0]) > 0
    return centers, second
