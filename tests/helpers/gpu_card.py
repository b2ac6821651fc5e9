"""Data, graphs, workers and comparisons for the tests on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.data import RemoteState, ShardGraph, StepParams
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.backends.weight_codes import N_LEVELS
from nomad_dask.metrics.scores import Scores, score
from nomad_dask.params import Params

FASHION_VARIABLE = "NOMAD_FASHION_MNIST"


def data_set(name: str) -> Any:
    """Return vectors, or the file that contains them; skip the test if they are not available."""
    import pytest  # other helpers of this file run where it is not installed

    from benchmarks import datasets

    if name == "mixture":
        return datasets.mixture(20_000)[0]
    if name == "fashion":
        folder = Path(os.environ.get(FASHION_VARIABLE, datasets.FASHION))
        if not folder.exists():
            pytest.skip(f"there is no {folder}: set {FASHION_VARIABLE} to the folder of Fashion-MNIST")
        return datasets.fashion(folder)[0]
    path = os.environ.get(datasets.PACKAGES_VARIABLE)
    if not path:
        pytest.skip(f"{datasets.PACKAGES_VARIABLE} names no Parquet file")
    return path


def near_graph(n: int, n_neighbors: int = 15, n_far: int = 0, seed: int = 0) -> ShardGraph:
    """Return the graph of a shard whose rows have nearby rows as neighbors; a few have none, one has very many.

    Cells and patches have 50 rows. With `n_far` patches of another shard, every third row is attracted by one.
    """
    rng = np.random.default_rng(seed)
    steps = np.delete(np.arange(-20, 21), 20)
    picks = rng.random((n, len(steps)), np.float32).argpartition(n_neighbors, axis=1)[:, :n_neighbors]
    ids = ((np.arange(n)[:, None] + steps[picks]) % n).astype(np.int32)
    middle = n // 2
    far_off = np.flatnonzero(np.abs(np.arange(n) - middle) > len(steps))
    ids[rng.choice(far_off, min(n // 4, 3000), replace=False), 0] = middle
    ids[:: max(1, n // 7)] = -1
    edges = symmetric_graph(weigh_by_rank(ids.view(np.uint32), "log"))
    offsets = np.append(np.arange(0, n, 50), n)
    n_cells = len(offsets) - 1
    drawn = np.arange(n) % 3 == 0 if n_far else np.zeros(n, bool)
    return ShardGraph(
        cell_offsets=offsets,
        patch_of_row=np.repeat(np.arange(n_cells, dtype=np.int32), np.diff(offsets)),
        patch_counts=np.diff(offsets),
        first_patch=n_far,
        sampled_cells=np.stack([np.arange(n_cells), np.roll(np.arange(n_cells), 1)], axis=1),
        indptr=edges.indptr,
        indices=edges.indices,
        weights=edges.weights,
        weight_codes=None,
        conditional_p=edges.conditional_p,
        cross_indptr=np.concatenate([[0], np.cumsum(drawn)]).astype(np.int64),
        cross_patches=rng.integers(0, max(n_far, 1), int(drawn.sum())).astype(np.int32),
        cross_weights=rng.random(int(drawn.sum())).astype(np.float32),
    )


def with_codes(graph: ShardGraph) -> ShardGraph:
    """Return the graph with the nearest of levels in equal ratios as the weights of its edges, coded."""
    levels = np.geomspace(graph.weights.min(), graph.weights.max(), N_LEVELS)
    codes = np.rint(np.log(graph.weights / levels[0]) * (N_LEVELS - 1) / np.log(levels[-1] / levels[0]))
    return replace(graph, weights=levels.astype(np.float32), weight_codes=codes.astype(np.uint8))


def remote_of(graph: ShardGraph, dim: int, n_far: int, spread: float, seed: int = 0) -> RemoteState:
    """Return a random state of the other shard."""
    rng = np.random.default_rng(seed)
    moments = rng.uniform(-spread, spread, (n_far + len(graph.patch_counts), dim + 1))
    moments[:, dim] = rng.uniform(0, 4, len(moments))
    counts = np.concatenate([rng.integers(1, 90, n_far), graph.patch_counts])
    points = rng.uniform(-spread, spread, (4 * n_far, dim)).astype(np.float32)
    weights = rng.uniform(0.5, 20, 4 * n_far).astype(np.float32)
    known = n_far or None
    return RemoteState(
        moments.astype(np.float32), counts.astype(np.float32), points, weights, known and 4e6, known and 9e6
    )  # fmt: skip


def grown(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return positions as dense as in a finished map; successive rows are near each other, a few are far outside."""
    rng = np.random.default_rng(seed)
    side = (n / 2) ** (1 / dim) * (1 if dim == 2 else 2)
    points = rng.random((n, dim)) * side
    points = points[np.lexsort([points[:, a] // 8 for a in range(dim)])]
    points[:: max(1, n // 5)] *= 3
    return (points - side / 2).astype(np.float32)


def step_differences(
    cpu: Backend, gpu: Backend, n: int, dim: int, normalization: str, repulsion: str, n_far: int
) -> dict[str, float]:
    """Return the largest differences between two backends in three steps, as multiples of what rounding may cause.

    Each step starts from the state of the CPU, so that rounding errors do not accumulate.
    """
    graph = near_graph(n, n_far=n_far)
    positions = grown(n, dim)
    spread = float(np.quantile(np.abs(positions), 0.9))
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=4)
    remotes = [remote_of(graph, dim, n_far, spread, seed) for seed in range(2)]
    theirs, ours = (backend.create_layout(graph, params, n + 10 * n_far) for backend in (cpu, gpu))
    theirs.load(positions, np.full_like(positions, 0.1))
    largest: dict[str, float] = {}

    def compare(name: str, difference: float, accepted: float) -> None:
        largest[name] = max(largest.get(name, 0.0), float(difference) / accepted)

    for epoch in range(3):
        ours.load(*theirs.copy_state())
        step = StepParams(epoch, 0.5, 0.8, 5.0, 1.5, measure_loss=True)
        expected, got = (one.run_epoch(step, remotes[epoch // 2]) for one in (theirs, ours))
        compare("partition sum", abs(got.partition_sum / expected.partition_sum - 1), 1e-5)
        assert got.loss is not None
        assert expected.loss is not None
        compare("loss", abs(got.loss / expected.loss - 1), 1e-6)
        # A row can have thousands of edges, or a force that is the difference of two much larger ones.
        states = zip(ours.copy_state(), theirs.copy_state(), (2e-7 * spread, 0), strict=True)
        for name, (mine, other, digits) in zip(("positions", "velocities"), states, strict=True):
            apart = np.abs(mine - other)
            compare(f"{name} of 99.9 %", np.quantile(apart, 0.999), 1e-5 + digits)
            compare(name, apart.max(), 2e-4 + 10 * digits)
        moments = np.abs(ours.patch_moments() - theirs.patch_moments())
        compare("patch moments", moments.max(initial=0), 2e-5 + 2e-6 * spread)
    return largest


@contextmanager
def gpu_workers(n: int, visible: str = "0") -> Iterator[Any]:
    """Yield a client of `n` worker processes that all use the same GPU."""
    from distributed import Client, LocalCluster

    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before or visible
    try:
        with (
            LocalCluster(
                n_workers=n, threads_per_worker=2, processes=True, host="127.0.0.1", memory_limit="16GiB",
                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, silence_logs=50,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            yield client
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]


def assert_as_good(x: Any, ours: np.ndarray, theirs: np.ndarray, n_queries: int = 1000) -> tuple[Scores, Scores]:
    """Check that NP@10 and RTA of a map are within the confidence intervals of another map, on the same queries."""
    got, expected = (score(x, positions, n_queries=n_queries) for positions in (ours, theirs))
    for mine, other in ((got.neighbors[10], expected.neighbors[10]), (got.triplets, expected.triplets)):
        assert other.low <= mine.value <= other.high, (mine, other)
    return got, expected
