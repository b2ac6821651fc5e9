"""Too little GPU memory: reported before the work where possible, and never fatal to a worker."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nomad_dask.backends.data import ListLengths, StepParams
from nomad_dask.backends.devices import detect_worker_gpu
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.errors import InputError, ResourceError
from nomad_dask.params import Params
from tests.helpers.gpu_card import grown, near_graph, remote_of
from tests.helpers.runs import blobs, make_map

pytestmark = pytest.mark.gpu
LITTLE = 8 << 20


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(30_000, 64, 60)


def limit_memory(size: int) -> None:
    """Limit CuPy's memory pool to `size` bytes; 0 removes the limit."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=size)


@pytest.mark.parametrize("stage", ["layout", "searcher", "fit_axes", "fit_cells", "assign", "project"])
def test_out_of_memory_errors_report_the_missing_bytes(stage, x, tmp_path):
    """The same call succeeds in the same process when memory is available again."""
    backend = GpuBackend(PROCESS_RUNTIME.get())
    n = len(x)
    np.save(tmp_path / "rows.npy", x)
    cells, axes = backend.fit_cells(x, 40, 0), backend.fit_axes(x, 20, 0)
    graph, positions = near_graph(400_000), grown(400_000, 2)

    def lay_out() -> None:
        one = backend.create_layout(graph, Params(), graph.n_rows)
        one.load(positions, np.zeros_like(positions))
        one.run_epoch(StepParams(0, 0.1, 0.0, 5.0, 1.0), remote_of(graph, 2, 0, 1.0))

    def search() -> None:
        vectors = ShardVectors([(tmp_path / "rows.npy", 0, n)], cache_bytes=1 << 30)
        offsets = np.linspace(0, n, len(cells.centroids) + 1).astype(np.int64)
        primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 30, n)
        primitives.build_filter(None)
        primitives.probe(ListLengths(15), 4, 23, lambda done: None)

    work = {
        "layout": lay_out,
        "searcher": search,
        "fit_axes": lambda: backend.fit_axes(x, 20, 0),
        "fit_cells": lambda: backend.fit_cells(x, 40, 0),
        "assign": lambda: backend.assign(np.concatenate([x] * 10), cells),
        "project": lambda: backend.project(np.concatenate([x] * 10), axes),
    }[stage]
    backend.close()
    limit_memory(LITTLE)
    try:
        with pytest.raises(ResourceError, match=r"not enough memory for .* bytes") as caught:
            work()
    finally:
        limit_memory(0)
    assert isinstance(caught.value, MemoryError)
    assert "more shards on more GPUs" in str(caught.value)
    del caught
    work()


def test_a_worker_out_of_memory_stays_usable(x, worker):
    (pid,) = worker.run(os.getpid).values()
    worker.run(limit_memory, LITTLE)
    with pytest.raises(ResourceError, match=r"The GPU does not have enough memory for"):
        make_map(x, client=worker, device="gpu", n_epochs=5)
    worker.run(limit_memory, 0)
    positions = make_map(x, client=worker, device="gpu", n_epochs=5).positions
    assert np.isfinite(positions).all()
    assert list(worker.run(os.getpid).values()) == [pid]


def test_a_gpu_filled_by_other_processes_is_refused_before_the_work(x, worker, tmp_path):
    cupy = pytest.importorskip("cupy")
    worker.run(detect_worker_gpu)  # creates the context while it still fits
    held = cupy.cuda.memory.Memory(cupy.cuda.runtime.memGetInfo()[0] - (96 << 20))
    try:
        with pytest.raises(ResourceError, match=r"GPU memory on each of its workers.*bytes are missing"):
            make_map(x, client=worker, device="gpu", workspace=tmp_path / "work", n_epochs=5)
    finally:
        del held
    assert not list((tmp_path / "work").glob("sample/*"))
    make_map(x, client=worker, device="gpu", workspace=tmp_path / "work", n_epochs=5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_is_named(x, worker, bad):
    broken = x.copy()
    broken[12_345, 6] = bad
    with pytest.raises(InputError, match=r"12[,_]?345"):
        make_map(broken, client=worker, device="gpu", n_epochs=5)
