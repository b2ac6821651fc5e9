"""The paper's repulsion: from cell means, and from samples of the own and the nearest cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.data import ShardGraph
from nomad_dask.backends.gpu.device_shard import DeviceShard
from nomad_dask.backends.shard_layout import invert_sampled_cells
from nomad_dask.params import Params


class CellMeanRepulsion:
    """Z_i and R_i from cell means and samples; see `backends.cpu.cell_mean_kernels`.

    Parameters
    ----------
    shard : DeviceShard
    graph : ShardGraph
    params : Params
    """

    def __init__(self, shard: DeviceShard, graph: ShardGraph, params: Params) -> None:
        self._shard = shard
        self._n_negatives = params.n_negatives
        self._seed = params.random_state
        self._first_patch = graph.first_patch
        cells = graph.sampled_cells
        self._n_sampled = cells.shape[1]
        indptr, sources, slots = invert_sampled_cells(cells)
        upload = shard.runtime.upload
        self._offsets = upload(graph.cell_offsets.astype(np.int64))
        self._cell_of_row = upload(np.repeat(np.arange(len(cells), dtype=np.int32), np.diff(graph.cell_offsets)))
        self._targets = upload(cells.astype(np.int64))
        self._sources = upload(sources)
        self._slots = upload(slots)
        self._source_ptr = upload(indptr)

    def evaluate(self, epoch: int, shares: Any, z: Any, repulsion: Any) -> None:
        """Write Z_i (n_rows,) and R_i (n_rows, dim) at the current positions.

        Parameters
        ----------
        epoch : int
            Each epoch draws new samples.
        shares : array of float32 (n_rows,) or None
            Factor on the gradient of each row's Z_i; None for 1.
        z : array of float32 (n_rows,) or None
        repulsion : array of float32 (n_rows, dim)
        """
        shard, n = self._shard, self._shard.n_rows
        counts = shard.remote.counts
        shard.launch(
            "repel_by_means", n, shard.points.positions, np.int64(n), self._offsets, self._cell_of_row,
            shard.remote.moments, counts, np.int64(len(counts)), np.int64(self._first_patch), self._targets,
            np.int64(self._n_sampled), self._sources, self._slots, self._source_ptr, np.int64(self._n_negatives),
            np.uint64(self._seed), np.int64(epoch), shares, z, repulsion,
        )  # fmt: skip
