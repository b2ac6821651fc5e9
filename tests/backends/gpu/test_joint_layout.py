"""Joint layouts with kernels on the host: some shards on some workers move as one shard with all rows does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from nomad_dask.backends.data import EpochResult, RemoteState, ShardGraph, StepParams
from nomad_dask.backends.gpu.joint_layout import GpuJointLayouts
from nomad_dask.backends.gpu.layout import GpuShardLayout
from nomad_dask.backends.joint import CommunicatorError, CrossRows, JointShard, RowParts, SingleMember
from nomad_dask.backends.weight_codes import encode_weights
from nomad_dask.params import Params
from tests.backends.gpu.test_layout import by_mesh, start
from tests.helpers.host_communicator import HostCommunicator, communicator_id
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
LEVELS = np.geomspace(1e-3, 2, 256).astype(np.float32)


def coded_edges(n: int, seed: int = 0) -> sp.csr_array:
    """Return a symmetric graph (n, n) of codes of weights, by which some rows have no edges."""
    rng = np.random.default_rng(seed)
    p = sp.random_array((n, n), density=min(1.0, 8 / n), rng=rng, dtype=np.float32).tocsr()
    p.setdiag(0)
    p.eliminate_zeros()
    both = sp.csr_array(p + p.T)
    both.data = encode_weights(both.data, LEVELS) + np.float32(1)
    both.sort_indices()
    return both


def graph_of(edges: sp.csr_array) -> ShardGraph:
    """Return the graph of one shard, from its edges by code."""
    n = edges.shape[0]
    none = np.zeros(0, np.int32)
    return ShardGraph(
        cell_offsets=np.array([0, n]), patch_of_row=none, patch_counts=none.astype(np.int64), first_patch=0,
        sampled_cells=np.zeros((1, 1), np.int64), indptr=edges.indptr.astype(np.int64),
        indices=edges.indices.astype(np.int32), weights=LEVELS, weight_codes=(edges.data - 1).astype(np.uint8),
        conditional_p=None, cross_indptr=np.zeros(n + 1, np.int64), cross_patches=none,
        cross_weights=none.astype(np.float32),
    )  # fmt: skip


def shards_of(edges: sp.csr_array, offsets: np.ndarray) -> list[JointShard]:
    """Divide the rows of a graph among shards."""
    shards = []
    for number, (first, last) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        rows = edges[first:last]
        is_own = (rows.indices >= first) & (rows.indices < last)
        of_row = np.repeat(np.arange(last - first), np.diff(rows.indptr))
        own = sp.csr_array(
            (rows.data[is_own], (of_row[is_own], rows.indices[is_own] - first)), shape=(last - first, last - first)
        )
        n_cross = np.bincount(of_row[~is_own], minlength=last - first)
        cross = CrossRows(
            np.append(0, np.cumsum(n_cross)).astype(np.int64),
            rows.indices[~is_own].astype(np.uint32),
            (rows.data[~is_own] - 1).astype(np.uint8),
        )
        shards.append(JointShard(number, graph_of(own), cross))
    return shards


def step_of(epoch: int) -> StepParams:
    return StepParams(epoch, 0.5, 0.9, 5.0, 1.0 + (epoch > 1), measure_loss=epoch % 2 == 0)


Epochs = list[list[EpochResult]]


def run_group(
    shards: list[JointShard],
    owners: tuple[int, ...],
    offsets: np.ndarray,
    params: Params,
    state: tuple[np.ndarray, np.ndarray],
    n_epochs: int,
    runtimes: list[Any],
) -> tuple[np.ndarray, np.ndarray, list[Epochs], list[Any]]:
    """Lay out shards on some members, each in a thread with a communicator of its own.

    Returns positions and velocities in the order of the rows, the results of each member by epoch, and the layouts.
    """
    n_members = max(owners) + 1
    parts = RowParts(offsets, owners, n_members)
    found = communicator_id()

    def member(rank: int) -> tuple[Any, Epochs]:
        communicator = HostCommunicator(found, rank, n_members, seed=rank) if n_members > 1 else SingleMember()
        own = [shard for shard in shards if owners[shard.number] == rank]
        layout = GpuJointLayouts(runtimes[rank]).create_layout(own, parts, params, communicator)
        for i, shard in enumerate(own):
            rows = slice(*offsets[shard.number : shard.number + 2].tolist())
            layout.load(i, state[0][rows], state[1][rows])
        results = []
        for epoch in range(n_epochs):
            layout.start_epoch(step_of(epoch))
            results.append(layout.finish_epoch(step_of(epoch)))
        return layout, results

    with ThreadPoolExecutor(n_members) as pool:
        done = list(pool.map(member, range(n_members)))
    state_of = {
        shard.number: points.copy_state()
        for rank, (layout, _) in enumerate(done)
        for shard, points in zip([s for s in shards if owners[s.number] == rank], layout.shards, strict=True)
    }
    positions, velocity = (np.concatenate([state_of[s][i] for s in range(len(shards))]) for i in (0, 1))
    return positions, velocity, [results for _, results in done], [layout for layout, _ in done]


def nothing_remote(dim: int) -> RemoteState:
    none = np.zeros(0, np.float32)
    return RemoteState(np.zeros((0, dim + 1), np.float32), none, np.zeros((0, dim), np.float32), none, None, None)


def one_shard(edges: sp.csr_array, params: Params, state: Any, n_epochs: int) -> tuple[Any, list[EpochResult]]:
    layout = GpuShardLayout(graph_of(edges), params, edges.shape[0], RUNTIME)
    layout.load(*state)
    remote = nothing_remote(params.n_components)
    results = [layout.run_epoch(step_of(epoch), remote) for epoch in range(n_epochs)]
    return layout.copy_state(), results


def divided(n: int, n_shards: int, seed: int = 0) -> np.ndarray:
    """Return where the rows of shards of unequal sizes begin."""
    rng = np.random.default_rng(seed)
    inner = np.sort(rng.choice(np.arange(1, n), n_shards - 1, replace=False))
    return np.concatenate([[0], inner, [n]]).astype(np.int64)


def assert_close(got: np.ndarray, expected: np.ndarray, share: float) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=share * float(np.abs(expected).max()))


@pytest.mark.parametrize("owners", [(0, 1), (0, 1, 2, 3), (0, 1, 0, 1), (0, 0, 0), (1, 0, 1)])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("mesh", [True, False], ids=["mesh", "pairs"])
def test_shards_on_several_workers_move_as_one_shard(owners, dim, mesh, monkeypatch):
    """To rounding: the edges of a row are added in another order."""
    if mesh:
        by_mesh(monkeypatch)
        monkeypatch.setattr("nomad_dask.backends.gpu.joint_layout.prefers_direct_sum", lambda *_: False)
    n, n_epochs, params = 150, 4, Params(n_components=dim)
    edges, offsets, state = coded_edges(n), divided(n, len(owners)), start(n, dim)
    expected, of_one = one_shard(edges, params, state, n_epochs)
    runtimes = [HostRuntime(seed=rank) for rank in range(max(owners) + 1)]
    shards = shards_of(edges, offsets)
    positions, velocity, results, _ = run_group(shards, owners, offsets, params, state, n_epochs, runtimes)
    assert_close(positions, expected[0], 1e-5)
    assert_close(velocity, expected[1], 1e-5)
    for epoch in range(n_epochs):
        of_shards = [result for of_member in results for result in of_member[epoch]]
        assert sum(r.partition_sum for r in of_shards) == pytest.approx(of_one[epoch].partition_sum, rel=1e-5)
        if of_one[epoch].loss is not None:
            assert sum(r.loss for r in of_shards) == pytest.approx(of_one[epoch].loss, rel=1e-5)


def placed(owners: tuple[int, ...], offsets: np.ndarray, edges: sp.csr_array, dim: int = 2) -> Any:
    """Return positions and velocities after some epochs of shards on the workers `owners`."""
    state, params = start(edges.shape[0], dim), Params(n_components=dim)
    runtimes = [HostRuntime(seed=7 * rank) for rank in range(max(owners) + 1)]
    return run_group(shards_of(edges, offsets), owners, offsets, params, state, 3, runtimes)[:2]


@pytest.mark.parametrize("mesh", [True, False], ids=["mesh", "pairs"])
def test_the_workers_of_the_shards_do_not_change_a_bit(mesh, monkeypatch):
    """Nor does the order in which the charges of workers are added."""
    monkeypatch.setattr("nomad_dask.backends.gpu.joint_layout.prefers_direct_sum", lambda *_: not mesh)
    edges, offsets = coded_edges(120), divided(120, 4)
    expected = placed((0, 0, 0, 0), offsets, edges)
    for owners in ((0, 1, 2, 3), (1, 0, 0, 1), (2, 1, 1, 0)):
        for got, same in zip(placed(owners, offsets, edges), expected, strict=True):
            np.testing.assert_array_equal(got, same)


def test_a_step_is_along_the_exact_forces_between_all_rows():
    """Against brute force over all pairs in float64; patches of other shards would not give these."""
    n, params = 90, Params()
    edges, offsets, owners = coded_edges(n, seed=3), divided(n, 3), (0, 1, 2)
    y, zero = start(n, 2)[0], np.zeros((n, 2), np.float32)
    runtimes = [RUNTIME] * 3
    moved = run_group(shards_of(edges, offsets), owners, offsets, params, (y, zero), 1, runtimes)[0]
    apart = y[:, None].astype(np.float64) - y[None]
    q = 1 / (1 + (apart**2).sum(-1))
    z = q.sum() - n
    weights = np.zeros((n, n))
    weights[edges.nonzero()] = LEVELS[(edges.data - 1).astype(int)]
    step = step_of(0)
    g = 2 * (2 * n / z * (q**2)[..., None] * apart - step.exaggeration * (weights * q)[..., None] * apart).sum(1)
    v = step.learning_rate * g
    v *= np.minimum(1, step.max_step_norm / np.linalg.norm(v, axis=1))[:, None]
    assert_close(moved - y, v, 1e-5)


def test_a_shard_without_rows():
    edges = coded_edges(60)
    offsets = np.array([0, 25, 25, 60])
    expected, _ = one_shard(edges, Params(), start(60, 2), 3)
    for owners in ((0, 1, 2), (0, 0, 1)):
        got = placed(owners, offsets, edges)
        assert_close(got[0], expected[0], 1e-5)


@pytest.mark.parametrize("operation", ["sum", "share"])
def test_an_abort_ends_the_wait_for_a_lost_member(operation):
    """Without it, the wait would not end: NCCL's does not."""
    found = communicator_id()
    with ThreadPoolExecutor(3) as pool:
        lost, *left = pool.map(lambda rank: HostCommunicator(found, rank, 3), (1, 0, 2))
        lost.abort()
        values = np.zeros(4, np.int64)
        parts = RowParts(np.array([0, 2, 3, 4]), (0, 1, 2), 3)

        def work(member: HostCommunicator) -> None:
            if operation == "sum":
                member.sum_integers(values.copy(), values.copy())
            else:
                member.share_parts(values.copy(), parts)

        waiting = [pool.submit(work, member) for member in left]
        assert not wait(waiting, 0.2).done
        for member in left:
            member.abort()
        for future in waiting:
            assert isinstance(future.exception(5), CommunicatorError)
