"""g equals −∂L/∂y: the formulas against finite differences, the kernels against the formulas."""

from itertools import pairwise

import numpy as np
import pytest

from nomad_dask.backends.cpu.layout import CpuShardLayout
from nomad_dask.backends.data import RemoteState, ShardGraph, StepParams
from nomad_dask.params import Params
from nomad_dask.utils.threads import thread_pool
from tests.helpers.reference_layout import Case, direction, finite_differences, noise

OPTIONS = [
    (n, r, s, d) for n in ("global", "point") for r, s in (("field", 0), ("means", 0), ("means", 3)) for d in (2, 3)
]


def random_case(seed: int, dim: int, n_negatives: int, n: int = 40) -> Case:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, dim)) * 3
    p = np.zeros((n, n))
    for i in range(n):
        others = rng.choice(np.delete(np.arange(n), i), 5, replace=False)
        p[i, others] = rng.dirichlet(np.ones(5))
    offsets = np.array([0, 1, 9, 9, 22, n])  # one row, no row
    n_cells = len(offsets) - 1
    exact = np.full((n_cells, 2), -1)
    exact[:, 0] = np.arange(n_cells)
    exact[:4, 1] = [1, 3, 0, 4]
    counts = np.diff(offsets).astype(float)
    means = np.array([y[a:b].mean(0) if b > a else np.zeros(dim) for a, b in pairwise(offsets)])
    return Case(y, p, offsets, exact, means, counts, n, 25, n_negatives, seed=seed)


def engine(case: Case, normalization: str, repulsion: str, pool, mesh_spacing: float = 0.7):
    import scipy.sparse as sp

    n, dim = case.y.shape
    graph = sp.csr_array(case.p + case.p.T)
    graph.sort_indices()
    rows = np.repeat(np.arange(n), np.diff(graph.indptr))
    shard = ShardGraph(
        cell_offsets=case.offsets,
        patch_of_row=np.repeat(np.arange(len(case.offsets) - 1, dtype=np.int32), np.diff(case.offsets)),
        patch_counts=np.diff(case.offsets),
        first_patch=0,
        sampled_cells=case.sampled_cells,
        indptr=graph.indptr.astype(np.int64),
        indices=graph.indices.astype(np.int32),
        weights=graph.data.astype(np.float32),
        weight_codes=None,
        conditional_p=case.p[rows, graph.indices].astype(np.float32),
        cross_indptr=np.zeros(n + 1, np.int64),
        cross_patches=np.zeros(0, np.int32),
        cross_weights=np.zeros(0, np.float32),
    )
    params = Params(
        n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=case.n_negatives,
        n_sampled_cells=2, n_noise=case.n_noise, random_state=case.seed, mesh_spacing=mesh_spacing,
    )  # fmt: skip
    layout = CpuShardLayout(shard, params, case.n_total, pool)
    layout.load(case.y.astype(np.float32), np.zeros((n, dim), np.float32))
    remote = RemoteState(
        np.hstack([case.means, np.zeros((len(case.means), 1))]).astype(np.float32), case.counts.astype(np.float32),
        np.zeros((0, dim), np.float32), np.zeros(0, np.float32), 0.0, 1.0,
    )  # fmt: skip
    return layout, remote


def engine_direction(case: Case, normalization: str, repulsion: str, pool, **more) -> tuple[np.ndarray, float]:
    layout, remote = engine(case, normalization, repulsion, pool, **more)
    outcome = layout.run_epoch(
        StepParams(0, learning_rate=1.0, momentum=0.0, max_step_norm=1e9, exaggeration=1.0), remote
    )
    return layout.copy_state()[1].astype(np.float64), outcome.partition_sum


@pytest.mark.parametrize(("normalization", "repulsion", "samples", "dim"), OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_formula_is_the_gradient_of_the_loss(normalization, repulsion, samples, dim, seed):
    case = random_case(seed, dim, samples)
    expected = finite_differences(case, normalization, repulsion)
    got = direction(case, normalization, repulsion)
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("normalization", "repulsion", "samples", "dim"), OPTIONS)
def test_kernels_follow_the_formula(normalization, repulsion, samples, dim):
    case = random_case(7, dim, samples)
    expected = direction(case, normalization, repulsion)
    with thread_pool(1) as pool:
        got, z = engine_direction(case, normalization, repulsion, pool)
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
    assert z == pytest.approx(noise(case, case.y, repulsion).sum(), rel=1e-5)


@pytest.mark.parametrize("normalization", ["global", "point"])
def test_kernels_follow_the_formula_on_a_mesh(normalization, monkeypatch):
    monkeypatch.setattr("nomad_dask.backends.cpu.field.DIRECT_PAIRS", 0)
    monkeypatch.setattr("nomad_dask.backends.cpu.field._PAIRS_A_NODE", 0)
    case = random_case(7, 2, 0)
    expected = direction(case, normalization, "field")
    with thread_pool(1) as pool:
        got, z = engine_direction(case, normalization, "field", pool, mesh_spacing=0.1)
    assert np.linalg.norm(got - expected) <= 1e-3 * np.linalg.norm(expected)
    assert z == pytest.approx(noise(case, case.y, "field").sum(), rel=1e-3)


@pytest.mark.parametrize(("normalization", "repulsion", "samples", "dim"), OPTIONS)
def test_threads_do_not_change_a_bit(normalization, repulsion, samples, dim):
    case = random_case(3, dim, samples)
    results = []
    for n in (1, 2, 5):
        with thread_pool(n) as pool:
            results.append(engine_direction(case, normalization, repulsion, pool))
    for got, z in results[1:]:
        assert np.array_equal(got, results[0][0])
        assert z == results[0][1]


def test_loss_is_what_the_formula_says():
    case = random_case(5, 2, 0)
    q = 1 / (1 + ((case.y[:, None] - case.y[None]) ** 2).sum(-1))
    with thread_pool(1) as pool:
        layout, remote = engine(case, "global", "field", pool)
        outcome = layout.run_epoch(StepParams(0, 1.0, 0.0, 1e9, 1.0, measure_loss=True), remote)
    assert outcome.loss == pytest.approx(-(case.p * np.log(q)).sum(), rel=1e-5)


def test_steps_are_clipped_and_keep_their_direction():
    case = random_case(1, 2, 0)
    with thread_pool(1) as pool:
        free, _ = engine_direction(case, "global", "field", pool)
        layout, remote = engine(case, "global", "field", pool)
        before = layout.copy_state()[0]
        layout.run_epoch(StepParams(0, 1.0, 0.0, 0.5, 1.0), remote)
        after, velocity = layout.copy_state()
    lengths = np.linalg.norm(velocity, axis=1)
    assert lengths.max() <= 0.5 * (1 + 1e-6)
    free_lengths = np.linalg.norm(free, axis=1)
    np.testing.assert_allclose(velocity, free * np.minimum(1, 0.5 / free_lengths)[:, None], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after, before + velocity, atol=1e-6)
