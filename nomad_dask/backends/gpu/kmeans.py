"""K-Means cells of bounded size on the device, and the assignment of rows to the cells of a tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.cell_index import expand_ranges
from nomad_dask.backends.data import CellTree
from nomad_dask.backends.gpu.lloyd import RowGroups, fit_groups
from nomad_dask.backends.gpu.nearest_cells import nearest_columns
from nomad_dask.backends.gpu.nearest_centers import find_nearest, find_nearest_of_picks, make_tiles, sort_by_label
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, share_cells


class _DeviceClusterer:
    """K-Means on the device; see `kmeans_tree.Clusterer`."""

    def __init__(self, seed: int, runtime: Runtime) -> None:
        self._seed, self._runtime = seed, runtime

    def center(self, sample: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the rows relative to their mean, on the device, and the mean."""
        rows = self._runtime.upload(sample)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        rows -= mean
        return rows, self._runtime.download(mean)

    def fit(self, rows: Any, k: int) -> np.ndarray:
        """Return `k` centroids on the host."""
        centers, _ = fit_groups(_one_group(rows, self._runtime), np.array([k]), self._seed, self._runtime)
        return self._runtime.download(centers)

    def fit_bounded(self, rows: Any, k: int, max_rows: float) -> np.ndarray:
        """Return `k` centroids on the host: more where cells of over `max_rows` rows were split."""
        groups = _one_group(rows, self._runtime)
        return _fit_bounded(groups, np.array([k]), max_rows, self._seed, self._runtime)[0]

    def fit_children(self, rows: Any, parents: np.ndarray, n_cells: int, max_rows: float) -> list[np.ndarray]:
        """Return the centroids below each parent, about `n_cells` in all, on the host."""
        runtime = self._runtime
        tiles = make_tiles(np.array([0, len(rows)]), np.array([0, len(parents)]), runtime)
        labels = find_nearest(rows, tiles, runtime.upload(parents), runtime)
        order, offsets = sort_by_label(labels, len(parents), runtime)
        n_centers = np.array([share_cells(n_cells, n, len(rows)) for n in np.diff(offsets).tolist()])
        return _fit_bounded(RowGroups(rows[order], offsets), n_centers, max_rows, self._seed, runtime)


def fit_cells(
    sample: np.ndarray, n_cells: int, seed: int, runtime: Runtime, parents: np.ndarray | None = None
) -> CellTree:
    """Return about `n_cells` cells of a sample; see `kmeans_tree.fit_cells`."""
    return kmeans_tree.fit_cells(sample, n_cells, _DeviceClusterer(seed, runtime), parents)


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
    row_bytes = 4 * (rows.shape[1] + len(parents) + 12 * PARENTS_TRIED)
    step = max(1, min(1 << 18, runtime.free_bytes() // 8 // row_bytes))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float32, copy=False)
        block = (runtime.upload(block) if isinstance(block, np.ndarray) else block) - shift
        if len(parents) <= PARENTS_TRIED:
            tiles = make_tiles(np.array([0, len(block)]), np.array([0, len(centroids)]), runtime)
            nearest = find_nearest(block, tiles, centroids, runtime)
        else:
            nearest = _find_nearest_in_tree(block, centroids, parents, cells.offsets, runtime)
        labels[start : start + step] = runtime.download(nearest)
    return labels


def _find_nearest_in_tree(rows: Any, centroids: Any, parents: Any, offsets: np.ndarray, runtime: Runtime) -> Any:
    """Return the index (n,) int32 of the nearest child of the `PARENTS_TRIED` nearest parents of each row."""
    xp = runtime.xp
    n, tried = len(rows), PARENTS_TRIED
    chosen = nearest_columns(rows, parents, tried, runtime)
    order, ends = sort_by_label(chosen.ravel(), len(parents), runtime)
    tiles = make_tiles(ends, offsets, runtime)
    found, to_found = find_nearest_of_picks(rows, (order // tried).astype(np.int32), tiles, centroids, runtime)
    labels, values = xp.empty(n * tried, np.int32), xp.empty(n * tried, np.float32)
    labels[order], values[order] = found, to_found
    best = values.reshape(n, tried).argmin(axis=1)
    return xp.take_along_axis(labels.reshape(n, tried), best[:, None], axis=1)[:, 0]


def _one_group(rows: Any, runtime: Runtime) -> RowGroups:
    return RowGroups(runtime.xp.ascontiguousarray(rows), np.array([0, len(rows)]))


def _fit_bounded(
    groups: RowGroups, n_centers: np.ndarray, max_rows: float, seed: int, runtime: Runtime
) -> list[np.ndarray]:
    """Return the centers (cells, d) float32 of each group; cells of over `max_rows` differing rows are split."""
    n_groups = len(n_centers)
    parts, owners = [], []
    owner = np.arange(n_groups)
    n_rounds = 0
    while len(owner):
        centers, labels = fit_groups(groups, n_centers, seed + n_rounds, runtime)
        order, offsets = sort_by_label(labels, len(centers), runtime)
        sizes = np.diff(offsets)
        group = np.repeat(np.arange(len(n_centers)), n_centers)
        # All rows of a group stay in one cell if they are identical.
        splits = (sizes > max_rows) & ((sizes < groups.sizes[group]) | (n_rounds == 0))
        kept = ~splits & ((sizes > 0) | (n_rounds == 0))
        parts.append(runtime.download(centers)[kept])
        owners.append(owner[group][kept])
        owner, sizes = owner[group][splits], sizes[splits]
        members = order[runtime.upload(expand_ranges(offsets[:-1][splits], sizes))]
        groups = RowGroups(groups.rows[members], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        n_centers = np.ceil(sizes / max_rows).astype(np.int64)
        n_rounds += 1
    of_cell = np.concatenate(owners)
    sorted_centers = np.concatenate(parts)[np.argsort(of_cell, kind="stable")]
    return np.split(sorted_centers, np.cumsum(np.bincount(of_cell, minlength=n_groups))[:-1])
