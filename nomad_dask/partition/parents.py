"""The parents of the cells, fitted by all GPUs together where there are several."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from nomad_dask.backends import cuml_kmeans
from nomad_dask.backends.data import PrincipalAxes
from nomad_dask.backends.devices import NoGpu, detect_worker_gpu, missing_packages
from nomad_dask.backends.kmeans_tree import count_parents
from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.cluster import Cluster, worker_backend
from nomad_dask.cluster.time_limit import TimeLimitError, time_limit
from nomad_dask.errors import Interrupted
from nomad_dask.partition.axes import fit_axes
from nomad_dask.planning.run_context import RunContext

_LOG = logging.getLogger("nomad_dask")


@dataclass(frozen=True)
class Parents:
    """Parents of cells.

    Attributes
    ----------
    axes : PrincipalAxes
    centroids : ndarray of float32 (n_parents, n_axes)
        In the space of the axes.
    """

    axes: PrincipalAxes
    centroids: np.ndarray


def fit_parents(run: RunContext, cluster: Cluster) -> Parents | None:
    """Return the parents by K-Means on all GPUs; None where the worker that fits the cells fits them too.

    That is so where not all of several workers have a GPU of their own, where this process has none, where the cells
    have no parents, where cuML is not installed, and where its K-Means fails or takes longer than the setting
    `kmeans-within`. In the
    latter case all workers are restarted, because they may wait for one another without end.
    """
    n_parents = count_parents(min(run.plan.n_cells, run.plan.sample_rows))
    if not n_parents or not cluster.has_gpu_for_each() or missing_packages(cuml_kmeans.PACKAGES):
        return None
    if isinstance(detect_worker_gpu(), NoGpu):
        return None
    (axes,) = cluster.run(_fit_axes, [(run,)])
    try:
        return Parents(axes, time_limit("kmeans-within").call(_fit_centroids, run, cluster, axes, n_parents))
    except KeyboardInterrupt as interrupt:
        raise Interrupted("Stopped.") from interrupt
    except Exception as error:  # noqa: BLE001 - of cuML, NCCL and Dask; one worker can do without all of them
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _LOG.warning("K-Means by cuML on all GPUs failed (%s): one worker fits the cells.", reason)
        if isinstance(error, TimeLimitError):
            cluster.restart_workers()
        return None


def _fit_axes(run: RunContext) -> PrincipalAxes:
    with worker_backend(run.device, run.host_threads) as backend:
        return fit_axes(run, backend, RowFile.open(run.file("sample/vectors.npy")))


def _fit_centroids(run: RunContext, cluster: Cluster, axes: PrincipalAxes, n_parents: int) -> np.ndarray:
    """Return the centroids of the sample, of which each worker keeps the coordinates of one part meanwhile."""
    addresses = [worker.address for worker in cluster.workers()]
    edges = np.linspace(0, run.plan.sample_rows, len(addresses) + 1).astype(np.int64).tolist()
    parts = [
        (cluster.submit(_project_part, (run, axes, start, stop), address), stop - start)
        for address, start, stop in zip(addresses, edges[:-1], edges[1:], strict=True)
    ]
    n_axes = len(axes.components)
    return cuml_kmeans.fit_centroids(cluster.client, parts, n_axes, n_parents, run.params.random_state)


def _project_part(run: RunContext, axes: PrincipalAxes, start: int, stop: int) -> np.ndarray:
    """Return the coordinates (rows, n_axes) float32 of some rows of the sample."""
    rows = RowFile.open(run.file("sample/vectors.npy")).read(start, stop)
    with worker_backend(run.device) as backend:
        coordinates: np.ndarray = backend.project(to_float32(rows, run.params.metric), axes)
    return coordinates
