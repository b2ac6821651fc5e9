"""Launches every kernel as the package does, and checks that none is missing.

    compute-sanitizer --tool memcheck python -m tests.helpers.every_kernel

`test_card_sanitizer.py` runs it in this way, and `tests/ptx/test_kernels.py` without a GPU. Sizes are small and odd:
the tools make kernels a hundred times slower, and reads beyond an array happen at its end.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends import kernel_parts, kmeans_tree
from nomad_dask.backends.data import Anchors, ListLengths, StepParams
from nomad_dask.backends.gpu import field_repulsion
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.kernel_files import kernel_files
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.backends.weight_codes import weight_levels
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.params import Params
from tests.helpers.gpu_card import grown, near_graph, remote_of, with_codes

# Files of kernels that do not depend on the dimensions of the map.
WITHOUT_DIM = ("graph", "kmeans", "nearest")
# Rows of a layout, of which the last block has a part only.
_ROWS = 555
_N_FAR = 13


class RecordingRuntime:
    """A runtime that records the launched kernels and the dimensions of their maps."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.launched: set[tuple[str, int]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        self.launched.add((kernel, dim))
        self._runtime.launch(kernel, dim, n_items, *args)


@contextmanager
def _by_mesh(wanted: bool) -> Iterator[None]:
    """Use a mesh, or the direct sum, for any number of points."""
    original = field_repulsion.prefers_direct_sum
    field_repulsion.prefers_direct_sum = lambda *_: not wanted
    try:
        yield
    finally:
        field_repulsion.prefers_direct_sum = original


@contextmanager
def _split_meshes() -> Iterator[None]:
    """Split K on small meshes, into three levels in two dimensions and two in three."""
    original = kernel_parts._SPLIT_NODES
    kernel_parts._SPLIT_NODES = {2: 25, 3: 15}
    try:
        yield
    finally:
        kernel_parts._SPLIT_NODES = original


def lay_out(
    backend: GpuBackend, dim: int, normalization: str, repulsion: str, by_mesh: bool, n_far: int = _N_FAR
) -> None:
    """Run enough epochs that captured launches are replayed."""
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=2)
    graph, positions = near_graph(_ROWS, n_far=n_far), grown(_ROWS, dim)
    if normalization == "global" and repulsion == "field":  # and plain weights with the means
        graph = with_codes(graph)
    remote = remote_of(graph, dim, n_far, 20.0)
    with _by_mesh(by_mesh):
        one = backend.create_layout(graph, params, 2 * _ROWS)
        one.load(positions, np.zeros_like(positions))
        for epoch in range(3):
            one.run_epoch(StepParams(epoch, 1e-3, 0.5, 5.0, 1.0, measure_loss=epoch == 0), remote)
    if not all(np.isfinite(array).all() for array in one.copy_state()):
        raise ArithmeticError(f"positions of {dim}-D, {normalization}, {repulsion} are not finite")


def search(backend: GpuBackend, folder: Path, d: int, free: int | None) -> None:
    """Fit cells, sort rows by cell, and search them; with `free` bytes of memory rows are streamed."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(517, d)).astype(np.float32)
    cells = backend.fit_cells(x, 23, 0)
    labels = backend.assign(x, cells)
    np.save(folder / f"{d}.npy", x[np.argsort(labels, kind="stable")])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    vectors = ShardVectors([(folder / f"{d}.npy", 0, len(x))])
    primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 26, len(x))
    if free is not None:
        backend.runtime.free_bytes = lambda: free  # type: ignore[method-assign]
    try:
        primitives.build_filter(None)
        ids, _, _ = primitives.probe(ListLengths(15, 8), 3, 23, lambda done: None)
        primitives.brute_force(np.arange(0, len(x), 97, dtype=np.int32), 15)
    finally:
        if free is not None:
            del backend.runtime.free_bytes
    if ids.min() < 0:
        raise ArithmeticError(f"rows of {d} dimensions have no neighbors")


def place(backend: GpuBackend, folder: Path, dim: int) -> None:
    """Place rows between anchors of their cells, in pieces of cells."""
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(300, 19)).astype(np.float32)
    np.save(folder / f"placed{dim}.npy", x)
    offsets = np.array([0, 70, 70, 101, 300])
    rows = np.arange(0, len(x), 7)
    anchors = Anchors(rows, rng.normal(size=(len(rows), dim)).astype(np.float32))
    vectors = ShardVectors([(folder / f"placed{dim}.npy", 0, len(x))])
    positions = backend.interpolate(vectors, offsets, x[[0, 1, 80, 200]], anchors, 1 << 20, lambda done: None)
    if not np.isfinite(positions).all():
        raise ArithmeticError(f"positions of {dim}-D between anchors are not finite")


def build_graph(backend: GpuBackend, k: int) -> None:
    """Build a graph with weights and with codes."""
    rng = np.random.default_rng(k)
    ids = np.array([rng.choice(np.delete(np.arange(90), i), k, replace=False) for i in range(77)]).astype(np.uint32)
    ids[::4, k // 2 :] = NO_ROW
    lists = weigh_by_rank(ids, "log")
    for levels in (None, weight_levels(lists)):
        for part in backend.symmetric_graph(lists, [(0, 50), (50, 77)], levels):
            if not len(part.indices):
                raise ArithmeticError("the rows of a range have no edges")


def launch_all(runtime: Any) -> set[tuple[str, int]]:
    """Launch every kernel on a runtime; return the names and dimensions of the launched kernels."""
    recording = RecordingRuntime(runtime)
    backend = GpuBackend(recording)
    for dim in (2, 3):
        for normalization in ("global", "point"):
            lay_out(backend, dim, normalization, "field", True)
            lay_out(backend, dim, normalization, "field", False)
            lay_out(backend, dim, normalization, "means", False)
        with _split_meshes():
            lay_out(backend, dim, "global", "field", True, n_far=0)
    build_graph(backend, 7)
    build_graph(backend, 40)
    with tempfile.TemporaryDirectory() as folder:
        place(backend, Path(folder), 2)
        place(backend, Path(folder), 3)
        search(backend, Path(folder), 24, None)
        search(backend, Path(folder), 25, 1 << 17)
        tree = kmeans_tree.MAX_FLAT_CELLS
        kmeans_tree.MAX_FLAT_CELLS = 8  # so that assignment uses the tree
        try:
            search(backend, Path(folder), 9, None)
        finally:
            kmeans_tree.MAX_FLAT_CELLS = tree
    recording.synchronize()
    return recording.launched


def dims_of(path: Path) -> tuple[int, ...]:
    """Return the dimensions of maps for which the kernels of a file are launched."""
    return (2,) if path.stem in WITHOUT_DIM else (2, 3)


def missing(launched: set[tuple[str, int]]) -> list[str]:
    """Return the kernels that were not launched for every dimension that they support."""
    wanted = {(name, dim) for name, path in kernel_files().items() for dim in dims_of(path)}
    return sorted(f"{name} in {dim}-D" for name, dim in wanted - launched)


def main() -> None:
    import cupy

    from nomad_dask.backends.gpu.cuda_runtime import CudaRuntime

    # The tools track allocations of CUDA, not those from a pool.
    cupy.cuda.set_allocator(None)
    left_out = missing(launch_all(CudaRuntime()))
    if left_out:
        sys.exit(f"not launched: {', '.join(left_out)}")
    print("all kernels were launched")


if __name__ == "__main__":
    main()
