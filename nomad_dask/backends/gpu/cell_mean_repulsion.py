"""The paper's repulsion on the device: means of cells, and samples from the own and the nearest cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.base import ShardGraph
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.shard_layout import invert_sampled_cells
from nomad_dask.params import Params


class CellMeanRepulsion:
    """Z_i and R_i from cell means and samples; see `backends.cpu.means_kernels`.

    Parameters
    ----------
    graph : ShardGraph
    params : Params
    runtime : Runtime
    """

    def __init__(self, graph: ShardGraph, params: Params, runtime: Runtime) -> None:
        self._params = params
        self._runtime = runtime
        self._first_patch = graph.first_patch
        cells = graph.sampled_cells
        self._n_exact = cells.shape[1]
        indptr, sources, slots = invert_sampled_cells(cells)
        upload = runtime.upload
        self._offsets = upload(graph.cell_offsets.astype(np.int64))
        self._cell_of_row = upload(np.repeat(np.arange(len(cells), dtype=np.int32), np.diff(graph.cell_offsets)))
        self._targets = upload(cells.astype(np.int64))
        self._sources = upload(sources)
        self._slots = upload(slots)
        self._source_ptr = upload(indptr)

    def __call__(self, points: Any, moments: Any, counts: Any, epoch: int, shares: Any, z: Any, repulsion: Any) -> None:
        """Write Z_i (n,) and R_i (n, dim).

        Parameters
        ----------
        points : array of float32 (n, dim)
        moments : array of float32 (patches of all shards, dim + 1)
        counts : array of float32 (patches of all shards,)
        epoch : int
            Samples are drawn anew in each.
        shares : array of float32 (n,) or None
            Factor on the gradient of each row's Z_i; None for 1.
        z : array of float32 (n,) or None
        repulsion : array of float32 (n, dim)
        """
        n, params = len(points), self._params
        self._runtime.launch(
            "repel_by_means", params.n_components, n, points, np.int64(n), self._offsets, self._cell_of_row, moments,
            counts, np.int64(len(counts)), np.int64(self._first_patch), self._targets, np.int64(self._n_exact),
            self._sources, self._slots, self._source_ptr, np.int64(params.n_negatives), np.uint64(params.random_state),
            np.int64(epoch), shares, z, repulsion,
        )  # fmt: skip
