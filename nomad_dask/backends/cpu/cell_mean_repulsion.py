"""The paper's repulsion on the CPU: means of cells, and samples from a row's own cell and the nearest cells."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cpu.cell_mean_kernels import (
    Draws,
    PatchMeans,
    RepulsionSums,
    SampledCells,
    cell_mean_kernel,
)
from nomad_dask.backends.data import RemoteState, ShardGraph
from nomad_dask.backends.shard_layout import invert_sampled_cells
from nomad_dask.params import Params
from nomad_dask.utils.threads import Threads

_CELL_CHUNK = 8


class CellMeanRepulsion:
    """Z_i and R_i from cell means and samples.

    Parameters
    ----------
    graph : ShardGraph
    params : Params
    pool : Threads
    """

    def __init__(self, graph: ShardGraph, params: Params, pool: Threads) -> None:
        self._params = params
        self._pool = pool
        self._first_patch = graph.first_patch
        self._n_cells = len(graph.cell_offsets) - 1
        self._cells = SampledCells(graph.cell_offsets, graph.sampled_cells, *invert_sampled_cells(graph.sampled_cells))
        self._kernel = cell_mean_kernel(params.n_components)

    def evaluate(
        self, points: np.ndarray, row_weights: np.ndarray, remote: RemoteState, epoch: int, repulsion: np.ndarray
    ) -> np.ndarray:
        """Write R_i (n, dim) float32 into `repulsion`, and return Z_i (n,) float32.

        Parameters
        ----------
        points : ndarray of float32 (n, dim)
        row_weights : ndarray of float32 (n,)
            Factor on the gradient of each row's Z_i.
        remote : RemoteState
        epoch : int
            Every epoch draws new samples.
        repulsion : ndarray of float32 (n, dim)
        """
        means = np.ascontiguousarray(remote.patch_moments.T[:-1])
        patches = PatchMeans(means, remote.patch_counts, self._first_patch)
        draws = Draws(self._params.n_negatives, self._params.random_state, epoch)
        out = RepulsionSums(np.zeros(len(points), np.float32), repulsion)

        def repel(start: int, stop: int) -> None:
            self._kernel(points, row_weights, start, stop, self._cells, patches, draws, out)

        self._pool.run(repel, self._n_cells, _CELL_CHUNK)
        return out.z
