"""Initial positions: scaled, random or given, or from a coarse map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.layout import coarse_init
from nomad_dask.layout.coarse_init import CoarseScale, coarse_scale, scale_coarse_init
from nomad_dask.layout.initialization import find_anchors, initial_positions, scale_init
from nomad_dask.params import Params
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources import open_source


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("init_std", [1e-4, 1.0, 7.0])
@pytest.mark.parametrize("std", [1e-9, 3.0, 1e9])
def test_the_first_axis_has_the_requested_deviation(init_std, std):
    coordinates = rng().normal(size=(5000, 2)) * [std, std / 4]
    start = scale_init(coordinates.astype(np.float32), std, init_std, rng())
    assert start.dtype == np.float32
    assert start.std(axis=0) == pytest.approx([init_std, init_std / 4], rel=0.05)
    np.testing.assert_allclose(start / init_std, coordinates / std, atol=1e-3)


@pytest.mark.parametrize("std", [0.0, 2.0])
def test_identical_rows_start_at_distinct_nearby_points(std):
    start = scale_init(np.zeros((300, 3), np.float32), std, 1.0, rng())
    assert len(np.unique(start, axis=0)) == 300
    assert np.abs(start).max() < 1e-3


def test_outliers_are_moved_closer_in_their_direction():
    coordinates = np.float32([[1e9, 0], [0, -1e12], [1, 1]])
    start = scale_init(coordinates, 1.0, 2.0, rng())
    np.testing.assert_allclose(start, [[20, 0], [0, -20], [2, 2]], atol=1e-2)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_scale_grows_with_the_rows(dim):
    coarse = rng().normal(size=(1000, dim)) * 5
    scale, larger = (coarse_scale(coarse, n, 1.0, weight=1) for n in (100_000, 100_000 * 2**dim))
    assert larger.factor == pytest.approx(2 * scale.factor)
    assert larger.jitter == scale.jitter
    assert coarse_scale(coarse * 3, 100_000, 1.0, weight=1).factor == pytest.approx(scale.factor / 3)
    assert np.isfinite(coarse_scale(np.zeros((10, dim)), 100_000, 1.0, weight=1).factor)


@pytest.mark.parametrize("dim", [2, 3])
def test_without_weight_a_coarse_start_is_as_small_as_any_other(dim):
    coarse = rng().normal(size=(1000, dim)) * 5
    sizes = [coarse_scale(coarse, 100_000, 2.0, weight) for weight in (0, 0.25, 0.5, 1)]
    assert sizes[0].factor * coarse.std(axis=0).mean() == pytest.approx(2)
    ratios = [size.factor / size.jitter for size in sizes]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert sizes[2].factor == pytest.approx((sizes[0].factor + sizes[3].factor) / 2)


def test_a_coarse_start_is_scaled_and_jittered(monkeypatch):
    monkeypatch.setattr(coarse_init, "_ROWS_AT_ONCE", 70)
    positions = rng().normal(size=(500, 2)).astype(np.float32)
    start = positions.copy()
    scale_coarse_init(start, CoarseScale(1.75, 0.5), rng())
    assert start.dtype == np.float32
    np.testing.assert_allclose(start, 1.75 * positions.astype(np.float64) + rng().normal(0, 0.5, (500, 2)), atol=1e-6)


@given(n_rows=st.integers(1, 60), seed=st.integers(0, 100), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_anchors_are_the_rows_of_the_shard_in_the_coarse_map(n_rows, seed, shares):
    generator = np.random.default_rng(seed)
    rows = generator.permutation(n_rows)[: round(shares[0] * n_rows)]
    coarse_rows = np.sort(generator.permutation(n_rows)[: round(shares[1] * n_rows)])
    coarse_positions = generator.normal(size=(len(coarse_rows), 2)).astype(np.float32)
    anchors = find_anchors(rows, coarse_rows, coarse_positions, n_rows)
    expected = [(i, list(coarse_rows).index(row)) for i, row in enumerate(rows) if row in coarse_rows]
    assert anchors.rows.tolist() == [i for i, _ in expected]
    assert anchors.positions.tolist() == [coarse_positions[j].tolist() for _, j in expected]


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    """A run with a coarse map and a shard of every other row, in a random order."""
    x = rng().normal(size=(17_000, 3)).astype(np.float32)
    params = Params(coarse_init="always")
    context = RunContext(open_source(x), params, make_plan(open_source(x), params, 1, 4 << 30), tmp_path, "cpu")
    rows = rng().permutation(17_000)[::2]
    coarse_rows = np.sort(rng().choice(17_000, context.plan.coarse_rows, replace=False))
    write_shard(context, x, rows)
    for name, array in (("rows", coarse_rows), ("positions", 4 * x[coarse_rows, :2])):
        (tmp_path / "coarse").mkdir(exist_ok=True)
        np.save(tmp_path / f"coarse/{name}.npy", array)
    return context


def write_shard(run: RunContext, x: np.ndarray, rows: np.ndarray) -> None:
    """Write a shard of a single cell."""
    (run.workspace / "shards").mkdir(exist_ok=True)
    arrays = {
        "vectors": x[rows],
        "rows": rows,
        "cell_offsets": np.array([0, len(rows)]),
        "centroids": x[rows].mean(0)[None],
    }
    for name, array in arrays.items():
        np.save(run.file(shard_file(0, name)), array)


def test_a_shard_starts_from_the_coarse_map(run):
    """Where each row is in the coarse map at its first two coordinates, it starts close to its own."""
    rows, x = np.load(run.file(shard_file(0, "rows"))), run.source.read(0, 17_000)
    coarse = np.load(run.file("coarse/positions.npy"))
    scale = coarse_scale(coarse, 17_000, run.params.init_std, 1)
    start = initial_positions(run, 0, CpuBackend(2))
    assert start.dtype == np.float32
    jitter = np.random.default_rng([run.params.random_state, 2, 0]).standard_normal(start.shape) * scale.jitter
    places = (start - jitter) / scale.factor / 4
    anchors = x[np.intersect1d(rows, np.load(run.file("coarse/rows.npy")))].astype(np.float64)
    weights = np.array([1, 1 / 2, 1 / 3, 1 / 4]) * 12 / 25
    nearest = np.argsort(((x[rows, None] - anchors) ** 2).sum(axis=2), axis=1)[:, :4]
    expected = (weights[:, None] * anchors[nearest, :2]).sum(axis=1)
    assert (np.abs(places - expected).max(axis=1) < 1e-5).mean() > 0.999  # but for the rounding of equal distances


def test_a_shard_without_rows_in_the_coarse_map_starts_in_its_middle(run):
    others = np.setdiff1d(np.arange(17_000), np.load(run.file("coarse/rows.npy")))
    write_shard(run, run.source.read(0, 17_000), others[:50])
    start = initial_positions(run, 0, CpuBackend(1))
    assert start.shape == (50, 2)
    assert 0 < np.abs(start).max() < 3
