"""The neighbors of new rows among those of a model, block by block on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import CellTree, NewRows, PrincipalAxes, StoredRows
from nomad_dask.cluster import Cluster, get_worker_state, report_progress, worker_backend
from nomad_dask.errors import InputError
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.model.probes import choose_n_probes
from nomad_dask.model.stored_neighbors import ENTRY_BYTES
from nomad_dask.neighbors.kept_lists import metric_distances
from nomad_dask.sources.base import Source, describe_rows
from nomad_dask.sources.rescaling import Rescaling
from nomad_dask.sources.retry import with_retries

Blocks = list[tuple[int, int]]

_BLOCK_BYTES = 64 << 20
# Beyond it float32 cannot hold the squares of distances.
_LARGEST = 2.0**50


@dataclass(frozen=True)
class ModelSearch:
    """A search among the rows of a model, as its tasks receive it.

    Attributes
    ----------
    arrays : ModelArrays
    metric : str
    rescaling : Rescaling
    k : int
    n_probes : int
        Cells that are searched around that of a row, at least.
    cache_bytes : int
        Memory for the vectors of the model; they are read cell by cell where it is not enough.
    device : {'cpu', 'gpu'}
    """

    arrays: ModelArrays
    metric: str
    rescaling: Rescaling
    k: int
    n_probes: int
    cache_bytes: int
    device: str

    @property
    def is_rescaled(self) -> bool:
        """Whether the vectors of the model, and so the new ones, are rescaled."""
        return not self.rescaling.is_identity


@dataclass(frozen=True)
class ModelTree:
    """The tree by which new rows find the cells of a model; see `tree_of_cells`."""

    axes: PrincipalAxes
    cells: CellTree
    numbers: np.ndarray


def search_in_parts(
    arrays: ModelArrays, metric: str, source: Source, k: int, cluster: Cluster, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the nearest rows of a model for consecutive rows of a source, in parts that fit in memory.

    Yields
    ------
    ids : ndarray of int64 (n, k)
        Numbers of the rows of the model, nearest first; -1 where there are fewer.
    distances : ndarray of float32 (n, k)
        In the metric and unit of the source; inf where there are fewer.
    """
    rescaling = Rescaling.from_array(np.array(arrays.open("sample/rescaling.npy")))
    search = ModelSearch(arrays, metric, rescaling, k, 0, memory_bytes // 4, cluster.device)
    (n_probes,) = cluster.run(_choose_n_probes, [(search,)])
    search = replace(search, n_probes=n_probes)
    block_bytes = min(_BLOCK_BYTES, memory_bytes // 16)
    max_rows = max(1, block_bytes // (4 * source.n_dims + 16 * k))
    # The lists of a part, and of the tasks that found them.
    part_rows = max(1, memory_bytes // (4 * 2 * ENTRY_BYTES * k))
    try:
        for part in _parts(source.read_groups(max_rows), part_rows):
            jobs = [(search, source.slice_rows(blocks[0][0], blocks[-1][1]), blocks) for blocks in part]
            ids, distances = (np.concatenate(a) for a in zip(*cluster.run(_search_blocks, jobs), strict=True))
            yield ids, metric_distances(distances, metric, rescaling)
    finally:
        cluster.broadcast_best_effort(_close_models)


def _parts(groups: Iterable[Blocks], max_rows: int) -> Iterator[list[Blocks]]:
    """Yield groups of blocks in parts of at most `max_rows` rows, or of one block; larger groups are divided."""
    part: list[Blocks] = []
    n_rows = 0
    for group in groups:
        rest: Blocks = []
        for start, stop in group:
            if n_rows and n_rows + stop - start > max_rows:
                yield [*part, rest] if rest else part
                part, rest, n_rows = [], [], 0
            rest.append((start, stop))
            n_rows += stop - start
        part.append(rest)
    yield part


def _choose_n_probes(search: ModelSearch) -> int:
    with worker_backend(search.device) as backend:
        return choose_n_probes(search.arrays, backend)


def _search_blocks(search: ModelSearch, source: Source, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and squared distances of the rows of consecutive blocks."""
    stored, tree = _open_stored_rows(search), load_tree(search.arrays)
    found = []
    with worker_backend(search.device) as backend:
        for start, stop in blocks:
            rows = _read(search, source, start, stop, backend)
            progress = partial(_report, start - blocks[0][0])
            found.append(_search_rows(search, stored, tree, rows, backend, progress))
    ids, distances = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return ids, distances


def _report(n_before: int, n_done: int) -> None:
    report_progress(n_before + n_done)


class OpenModels(dict[Path, StoredRows]):
    """The vectors of the models that a worker searches, by folder."""


def _open_stored_rows(search: ModelSearch) -> StoredRows:
    """Return the vectors of a model, which are read into memory if they fit, until `_close_models`."""
    arrays, opened = search.arrays, get_worker_state().get(OpenModels)
    if arrays.folder in opened:
        return opened[arrays.folder]
    vectors = arrays.vectors(search.metric, search.cache_bytes)
    vectors.load()
    catalog = arrays.catalog
    opened[arrays.folder] = StoredRows(vectors, np.append(0, np.cumsum(catalog.counts)), catalog.centroids)
    return opened[arrays.folder]


def _close_models(dask_worker: Any) -> None:
    """Free the vectors of all models; Dask passes the worker when it broadcasts the call."""
    get_worker_state(dask_worker).get(OpenModels).clear()


def _read(search: ModelSearch, source: Source, start: int, stop: int, backend: Backend) -> np.ndarray:
    """Return rows of a source as the model stores its vectors, float32 on the host, of unit length for cosine.

    Raises
    ------
    InputError
        A row has NaN or infinity, or is beyond the range of the model.
    """
    block = with_retries(partial(backend.read, source, start, stop), describe_rows(source, start, stop))
    backend.check_finite(block, start, source.name)
    everything = np.arange(stop - start)
    if search.is_rescaled or (search.metric == "cosine" and backend.value_range(block, "cosine").directions_lost):
        host = backend.gather_to_host(block, everything)
        rescaling = search.rescaling if search.is_rescaled else Rescaling(np.zeros(host.shape[1]), unit_length=True)
        block = rescaling.apply(host)
    elif search.metric == "euclidean" and backend.value_range(block, "euclidean").max_abs > _LARGEST:
        host = backend.gather_to_host(block, everything)
        row = int(np.flatnonzero((np.abs(host) > _LARGEST).any(axis=1))[0])
        raise InputError(
            f"Row {start + row:,} of {source.name} has values up to {np.abs(host[row]).max():.3g}, which is beyond the "
            "range of the model: remove it, or fit with rows like it."
        )
    return backend.gather_to_host(backend.to_float32(block, search.metric), everything)


def _search_rows(
    search: ModelSearch,
    stored: StoredRows,
    tree: ModelTree,
    rows: np.ndarray,
    backend: Backend,
    on_progress: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and squared distances (n, k) of rows as `_read` returns them."""
    cells = tree.numbers[backend.assign(backend.project(rows, tree.axes), tree.cells)]
    order = np.argsort(cells, kind="stable")
    groups, firsts = np.unique(cells[order], return_index=True)
    probed = _probed_cells(search, groups, backend)
    new = NewRows(rows[order], np.append(firsts, len(rows)), probed)
    found = backend.search_new_rows(stored, new, search.k, on_progress)
    ids, distances = (np.empty_like(array) for array in found)
    ids[order], distances[order] = found
    return ids, distances


def _probed_cells(search: ModelSearch, cells: np.ndarray, backend: Backend) -> np.ndarray:
    """Return the nearest cells (n, n_probes) of some cells: as many as have `k` rows for each."""
    catalog, n_probes = search.arrays.catalog, search.n_probes
    while True:
        probed = backend.nearest_cells(catalog.centroids, cells, n_probes)
        if n_probes >= len(catalog.counts) or catalog.counts[probed].sum(axis=1).min() >= search.k:
            return probed
        n_probes *= 2


def load_tree(arrays: ModelArrays) -> ModelTree:
    """Read the tree of the cells of a model."""
    mean, components, std, centroids, parents, offsets, numbers = (
        np.array(arrays.open(f"cells/{name}.npy"))
        for name in ("mean", "components", "std", "centroids", "parents", "offsets", "numbers")
    )
    return ModelTree(PrincipalAxes(mean, components, float(std)), CellTree(centroids, parents, offsets), numbers)
