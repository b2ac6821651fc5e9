"""The layout on the GPU, with its kernels on the host, against the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from nomad_dask.backends.cpu.layout import CpuShardLayout
from nomad_dask.backends.data import RemoteState, ShardGraph, StepParams
from nomad_dask.backends.gpu import field_repulsion
from nomad_dask.backends.gpu.layout import GpuShardLayout
from nomad_dask.backends.gpu.runtime import BLOCK
from nomad_dask.params import Params
from nomad_dask.utils.threads import thread_pool
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
STEP = StepParams(0, learning_rate=0.5, momentum=0.9, max_step_norm=5.0, exaggeration=1.0, measure_loss=True)


def graph_of(n: int, dim: int, seed: int = 0, n_far: int = 0, first_patch: int = 0) -> ShardGraph:
    """Make a shard's graph with rows of no, one and many edges, some of them to patches of others."""
    rng = np.random.default_rng(seed)
    k = min(6, n - 1)
    p = np.zeros((n, n), np.float32)
    for i in range(n):
        others = rng.choice(np.delete(np.arange(n), i), rng.integers(0, k + 1), replace=False)
        p[i, others] = rng.dirichlet(np.ones(max(len(others), 1)))[: len(others)]
    both = sp.csr_array(p + p.T)
    both.sort_indices()
    rows = np.repeat(np.arange(n), np.diff(both.indptr))
    n_cells = max(1, n // 12)
    offsets = np.sort(rng.integers(0, n + 1, n_cells - 1))
    offsets = np.concatenate([[0], offsets, [n]]).astype(np.int64)
    exact = np.full((n_cells, 2), -1, np.int64)
    exact[:, 0] = np.arange(n_cells)
    if n_cells > 1:
        exact[:, 1] = (np.arange(n_cells) + 1) % n_cells
        exact[0, 1] = -1
    far_counts = rng.integers(0, 4, n) if n_far else np.zeros(n, np.int64)
    cross_indptr = np.concatenate([[0], np.cumsum(far_counts)]).astype(np.int64)
    return ShardGraph(
        cell_offsets=offsets,
        patch_of_row=np.repeat(np.arange(n_cells, dtype=np.int32), np.diff(offsets)),
        patch_counts=np.diff(offsets),
        first_patch=first_patch,
        sampled_cells=exact,
        indptr=both.indptr.astype(np.int64),
        indices=both.indices.astype(np.int32),
        weights=both.data.astype(np.float32),
        weight_codes=None,
        conditional_p=p[rows, both.indices].astype(np.float32),
        cross_indptr=cross_indptr,
        cross_patches=rng.integers(0, max(n_far, 1), cross_indptr[-1]).astype(np.int32),
        cross_weights=rng.random(cross_indptr[-1]).astype(np.float32),
    )


def remote_of(graph: ShardGraph, dim: int, n_far: int, seed: int = 0, known: bool = True) -> RemoteState:
    rng = np.random.default_rng(seed)
    own = len(graph.patch_counts)
    moments = rng.normal(size=(own + n_far, dim + 1)) * 4
    moments[:, dim] **= 2
    counts = np.concatenate([rng.integers(1, 9, n_far), graph.patch_counts])
    points = rng.normal(size=(4 * n_far, dim)) * 5
    return RemoteState(
        moments.astype(np.float32),
        counts.astype(np.float32),
        points.astype(np.float32),
        rng.uniform(0.5, 3, 4 * n_far).astype(np.float32),
        123.0 if known and n_far else None,
        77.0 if known and n_far else None,
    )


def start(n: int, dim: int, seed: int = 0, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    state = rng.normal(size=(2, n, dim)) * np.array([spread, 0.1])[:, None, None]
    return state[0].astype(np.float32), state[1].astype(np.float32)


def both_layouts(graph, params, n_total, pool, state, runtime=RUNTIME):
    pair = CpuShardLayout(graph, params, n_total, pool), GpuShardLayout(graph, params, n_total, runtime)
    for one in pair:
        one.load(*state)
    return pair


def by_mesh(monkeypatch):
    """Let both backends use the mesh for any number of points."""
    monkeypatch.setattr("nomad_dask.backends.cpu.field.DIRECT_PAIRS", 0)
    monkeypatch.setattr("nomad_dask.backends.cpu.field._PAIRS_A_NODE", 0)
    monkeypatch.setattr(field_repulsion, "prefers_direct_sum", lambda *_: False)


def by_pairs(monkeypatch):
    """Let both backends choose between mesh and direct sum only by the number of pairs."""
    monkeypatch.setattr("nomad_dask.backends.cpu.field._PAIRS_A_NODE", 0)
    monkeypatch.setattr(field_repulsion, "prefers_direct_sum", lambda n, m, *_: n * m <= 1 << 20)


def assert_close(got: np.ndarray, expected: np.ndarray, share: float):
    """Check equality relative to the largest value: forces are differences of larger numbers."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=share * max(float(np.abs(expected).max()), 1e-3))


def compare(cpu, gpu, remotes, n_epochs: int, share: float):
    for e, remote in zip(range(n_epochs), remotes, strict=False):
        step = StepParams(e, 0.5, 0.9, 5.0, 1.0 + (e > 1), measure_loss=e % 2 == 0)
        expected, got = cpu.run_epoch(step, remote), gpu.run_epoch(step, remote)
        assert got.partition_sum == pytest.approx(expected.partition_sum, rel=share * 10, abs=1e-6)
        assert (got.loss is None) == (expected.loss is None)
        if expected.loss is not None:
            assert got.loss == pytest.approx(expected.loss, rel=share * 10)
        for ours, theirs in zip(gpu.copy_state(), cpu.copy_state(), strict=True):
            assert_close(ours, theirs, share)
        assert_close(gpu.patch_moments(), cpu.patch_moments(), share)
        share *= 2


OPTIONS = [
    (normalization, repulsion, dim)
    for normalization in ("global", "point")
    for repulsion in ("field", "mesh", "means")
    for dim in (2, 3)
]


@pytest.mark.parametrize("n_far", [0, 5])
@pytest.mark.parametrize(("normalization", "repulsion", "dim"), OPTIONS)
def test_epochs_equal_those_of_the_cpu(normalization, repulsion, dim, n_far, monkeypatch):
    if repulsion == "mesh":
        by_mesh(monkeypatch)
        repulsion = "field"
    n = 90
    graph = graph_of(n, dim, n_far=n_far, first_patch=n_far)
    params = Params(
        n_components=dim,
        normalization=normalization,
        repulsion_method=repulsion,
        n_negatives=3,
        n_noise=50,
        random_state=4,
    )
    first, second = remote_of(graph, dim, n_far, known=False), remote_of(graph, dim, n_far, seed=1)
    with thread_pool(1) as pool:
        pair = both_layouts(graph, params, 2 * n, pool, start(n, dim))
        compare(*pair, [first, first, second, second], 4, 2e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize(("normalization", "repulsion", "dim"), [o for o in OPTIONS if o[1] != "mesh"])
def test_few_rows(normalization, repulsion, dim, n):
    graph = graph_of(n, dim, seed=n) if n > 1 else graph_of(2, dim)
    if n == 1:
        none = np.zeros(2, np.int64)
        graph = ShardGraph(
            np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.int64), 0, np.zeros((1, 1), np.int64), none,
            np.zeros(0, np.int32), np.zeros(0, np.float32), None, np.zeros(0, np.float32), none, np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        )  # fmt: skip
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=2)
    with thread_pool(1) as pool:
        pair = both_layouts(graph, params, n, pool, start(n, dim))
        compare(*pair, [remote_of(graph, dim, 0)] * 2, 2, 1e-5)


@pytest.mark.parametrize("repulsion", ["field", "means"])
@pytest.mark.parametrize("dim", [2, 3])
def test_identical_rows(repulsion, dim):
    n = 50
    graph = graph_of(n, dim)
    params = Params(n_components=dim, repulsion_method=repulsion, n_negatives=2)
    positions = np.full((n, dim), 1.5, np.float32)
    with thread_pool(1) as pool:
        pair = both_layouts(graph, params, n, pool, (positions, np.zeros_like(positions)))
        compare(*pair, [remote_of(graph, dim, 0)] * 2, 2, 1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_many_identical_rows_stay_together(dim):
    n = 1100
    graph = graph_of(n, dim)
    positions = np.full((n, dim), 1.5, np.float32)
    one = GpuShardLayout(graph, Params(n_components=dim), n, RUNTIME)
    one.load(positions, np.zeros_like(positions))
    outcome = one.run_epoch(STEP, remote_of(graph, dim, 0))
    moved = one.copy_state()[0]
    assert np.isfinite(moved).all()
    assert not np.ptp(moved, axis=0).any()
    assert outcome.partition_sum == pytest.approx(n * (n - 1), rel=1e-3)
    assert outcome.loss == 0


def test_an_empty_shard():
    nothing, none = np.zeros(1, np.int64), np.zeros(0, np.float32)
    graph = ShardGraph(
        nothing, np.zeros(0, np.int32), np.zeros(4, np.int64), 0, np.zeros((0, 1), np.int64), nothing,
        np.zeros(0, np.int32), none, None, none, nothing, np.zeros(0, np.int32), none,
    )  # fmt: skip
    one = GpuShardLayout(graph, Params(), 10, RUNTIME)
    one.load(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))
    assert one.run_epoch(STEP, remote_of(graph, 2, 0)).partition_sum == 0
    assert one.patch_moments().shape == (4, 4)
    assert not one.patch_moments().any()
    assert one.copy_state()[0].shape == (0, 2)


class FewBlocks(HostRuntime):
    """Launches kernels with three blocks at most, except those that write one partial result per block."""

    def launch(self, kernel, dim, n_items, *args):
        if kernel not in {"mesh_z", "sum_rows", "watch", "attraction_loss", "point_coefficients"}:
            n_items = min(n_items, 3 * BLOCK)
        super().launch(kernel, dim, n_items, *args)


@pytest.mark.parametrize(("normalization", "repulsion", "dim"), OPTIONS)
def test_neither_number_nor_order_of_blocks_and_threads_changes_a_bit(normalization, repulsion, dim, monkeypatch):
    if repulsion == "mesh":
        by_mesh(monkeypatch)
        repulsion = "field"
    n = 600
    graph = graph_of(n, dim, n_far=3, first_patch=3)
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=2)
    remote, results = remote_of(graph, dim, 3), []
    for runtime in (RUNTIME, HostRuntime(seed=1), FewBlocks(seed=2)):
        one = GpuShardLayout(graph, params, n, runtime)
        one.load(*start(n, dim))
        outcomes = [one.run_epoch(STEP, remote) for _ in range(2)]
        results.append((outcomes, *one.copy_state(), one.patch_moments()))
    for other in results[1:]:
        assert other[0] == results[0][0]
        for got, expected in zip(other[1:], results[0][1:], strict=True):
            assert np.array_equal(got, expected)


class Remembering(HostRuntime):
    """Checks the requirements of a captured graph: the same launches with the same arrays and scalars each time."""

    now = None
    replays = 0

    def launch(self, kernel, dim, n_items, *args):
        super().launch(kernel, dim, n_items, *args)
        if Remembering.now is not None:
            places = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args]
            Remembering.now.append((kernel, dim, n_items, places, args))

    def capture(self, work):
        captured = []

        def again():
            Remembering.now = launched = []
            work()
            Remembering.now = None
            captured.append(launched)  # and so its arrays stay where they are
            assert [c[:4] for c in launched] == [c[:4] for c in captured[0]]
            Remembering.replays += len(captured) > 1

        return again


@pytest.mark.parametrize("repulsion", ["field", "mesh"])
@pytest.mark.parametrize("dim", [2, 3])
def test_launches_can_be_captured(repulsion, dim, monkeypatch):
    if repulsion == "mesh":
        by_mesh(monkeypatch)
    monkeypatch.setattr(Remembering, "replays", 0)
    n = 200
    graph = graph_of(n, dim, n_far=3, first_patch=3)
    one = GpuShardLayout(graph, Params(n_components=dim), n, Remembering())
    one.load(*start(n, dim, spread=6))
    remotes = [remote_of(graph, dim, 3), remote_of(graph, dim, 3, seed=1)]
    for epoch in range(9):
        one.run_epoch(StepParams(epoch, 0.01, 0.0, 5.0, 1.0, measure_loss=epoch % 2 == 0), remotes[epoch // 5])
    assert Remembering.replays >= 5


def test_the_report_is_downloaded_in_one_copy(monkeypatch):
    by_mesh(monkeypatch)
    copies = []
    n = 300
    graph = graph_of(n, 2, n_far=3, first_patch=3)
    one = GpuShardLayout(graph, Params(), n, RUNTIME)
    one.load(*start(n, 2))
    remote = remote_of(graph, 2, 3)
    one.run_epoch(STEP, remote)
    monkeypatch.setattr(HostRuntime, "download", lambda self, array: copies.append(array.nbytes) or array.copy())
    monkeypatch.setattr(HostRuntime, "upload", lambda *_: pytest.fail("an epoch uploads nothing new"))
    one.run_epoch(STEP, remote)
    one.patch_moments()
    assert len(copies) == 1
    assert copies[0] < 1 << 20


def test_the_number_of_remote_points_can_change(monkeypatch):
    """No charge of an earlier state may remain."""
    by_pairs(monkeypatch)
    n = 1200
    graph = graph_of(n, 2, n_far=6, first_patch=6)
    remotes = [remote_of(graph, 2, 6, seed=s) for s in range(3)]
    fewer = [replace(r, points=r.points[:m], weights=r.weights[:m]) for r, m in zip(remotes, (24, 0, 7), strict=True)]
    with thread_pool(2) as pool:
        pair = both_layouts(graph, Params(), 2 * n, pool, start(n, 2, spread=20))
        compare(*pair, fewer, 3, 2e-5)


@pytest.mark.parametrize(("normalization", "dim"), [("global", 2), ("global", 3), ("point", 2)])
def test_whole_maps_agree(normalization, dim, monkeypatch):
    """Rounding errors grow from epoch to epoch, but more slowly than the map."""
    by_pairs(monkeypatch)
    n, n_epochs = 1500, 30 if dim == 2 else 16
    graph = graph_of(n, dim)
    params = Params(n_components=dim, normalization=normalization)
    remote = remote_of(graph, dim, 0)
    with thread_pool(2) as pool:
        cpu, gpu = both_layouts(graph, params, n, pool, start(n, dim, spread=1.0))
        for e in range(n_epochs):
            step = StepParams(e, 0.5 * (1 - e / n_epochs), 0.9, 5.0, 1.0, measure_loss=e == n_epochs - 1)
            expected, got = cpu.run_epoch(step, remote), gpu.run_epoch(step, remote)
    assert got.partition_sum == pytest.approx(expected.partition_sum, rel=1e-3)
    assert got.loss == pytest.approx(expected.loss, rel=1e-3)
    assert np.std(cpu.copy_state()[0]) > 2
    apart = np.linalg.norm(gpu.copy_state()[0] - cpu.copy_state()[0], axis=1)
    assert np.median(apart) <= 1e-3 * np.std(cpu.copy_state()[0])
