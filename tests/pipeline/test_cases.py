"""Unusual data of which a map must be made all the same."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from nomad_dask.errors import InputError, NomadWarning
from tests.helpers.runs import blobs, make_map


def kept_neighbors(x: np.ndarray, positions: np.ndarray, k: int = 10) -> float:
    """Return NP@k by brute force."""
    x = x.astype(np.float64)

    def nearest(rows: np.ndarray) -> np.ndarray:
        gaps = ((rows**2).sum(1)[:, None] - 2 * rows @ rows.T) + (rows**2).sum(1)
        np.fill_diagonal(gaps, np.inf)
        return np.argsort(gaps, axis=1)[:, :k]

    a, b = nearest(x - x.mean(0)), nearest(positions.astype(np.float64))
    return float(np.mean([len(set(i) & set(j)) for i, j in zip(a, b, strict=True)])) / k


def checked(x: np.ndarray, **settings: Any) -> np.ndarray:
    """Make a map and check the invariants of all maps."""
    before = x.copy()
    result = make_map(x, **({"n_epochs": 60} | settings))
    positions = result.positions
    assert positions.dtype == np.float32
    assert positions.shape == (len(x), settings.get("n_components", 2))
    assert np.isfinite(positions).all()
    assert result.cell_labels.shape == (len(x),)
    assert result.cell_labels.min() >= 0
    np.testing.assert_array_equal(x, before)
    return positions


@lru_cache
def plain_map(n: int, n_epochs: int) -> np.ndarray:
    """Return the positions of the usual data, to which those of unusual data are compared."""
    return checked(blobs(n), n_epochs=n_epochs)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 16, 17])
@pytest.mark.parametrize(
    "options", [{}, {"repulsion_method": "means", "normalization": "point"}], ids=["default", "paper"]
)
def test_few_rows(n, options):
    """Includes n = k + 1 and k + 2."""
    positions = checked(blobs(n), **options)
    assert len(np.unique(positions, axis=0)) == n


@pytest.mark.parametrize("n", [3, 500])
@pytest.mark.parametrize("value", [0.0, 7.25])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_identical_rows(n, value, metric):
    with pytest.warns(NomadWarning, match=f"All {n} rows of the sample are equal"):
        positions = checked(np.full((n, 6), value, np.float32), metric=metric)
    assert len(np.unique(positions, axis=0)) == n
    assert np.abs(positions).max() < 1000


def test_identical_rows_in_shards():
    with (
        pytest.warns(NomadWarning, match="rows of the sample are equal"),
        pytest.warns(NomadWarning, match=r"largest shard has 3\.00 times the mean"),
    ):
        positions = checked(np.ones((600, 6), np.float32), n_shards=3)
    assert len(np.unique(positions, axis=0)) == 600


@pytest.mark.parametrize("n_shards", [1, 3])
def test_duplicates_do_not_collapse_to_a_point(n_shards):
    x = blobs(2500)
    x[:1000] = x[0]
    positions = checked(x, n_shards=n_shards, n_epochs=200)
    gaps = cKDTree(positions).query(positions, k=2)[0][:, 1]
    alike, others = gaps[:1000], gaps[1000:]
    assert len(np.unique(positions[:1000], axis=0)) == 1000
    assert np.median(alike) > 0.25 * np.median(others)
    # A disc that is evenly filled has a quarter of its points within half its radius; a ring has none there.
    away = np.linalg.norm(positions[:1000] - np.median(positions[:1000], axis=0), axis=1)
    assert 0.1 < (away < np.quantile(away, 0.9) / 2).mean() < 0.6


def test_constant_columns_do_not_change_the_map():
    x = blobs(800)
    wide = np.hstack([x, np.full((800, 5), 3.0, np.float32), np.zeros((800, 3), np.float32)])
    assert kept_neighbors(x, checked(wide, n_epochs=200)) > 0.9 * kept_neighbors(x, plain_map(800, 200))


@pytest.mark.parametrize("n_shards", [1, 3])
def test_far_outliers_do_not_disturb_the_other_rows(n_shards):
    n_far = 5
    x = blobs(900)
    far = x.copy()
    rows = np.arange(n_far) * 31
    far[rows] = 1e6 * np.sign(np.random.default_rng(1).normal(size=(n_far, x.shape[1])))
    settings: dict[str, Any] = {"n_epochs": 100, "n_shards": n_shards, "cell_size": 60}
    without = checked(x, **settings)
    with pytest.warns(NomadWarning, match=r"5 rows \(the first: 0, 31, 62, 93, 124\)"):
        with_them = checked(far, **settings)
    rest = np.setdiff1d(np.arange(900), rows)
    spread = [np.subtract(*np.quantile(p[rest], [0.95, 0.05], axis=0)).min() for p in (without, with_them)]
    assert 0.7 < spread[1] / spread[0] < 1.4
    assert kept_neighbors(x[rest], with_them[rest]) > 0.9 * kept_neighbors(x[rest], without[rest])
    assert np.abs(with_them).max() < 5 * np.abs(without).max()


@pytest.mark.parametrize("n_shards", [1, 2])
def test_cells_of_about_one_row(n_shards):
    x = blobs(400)
    positions = checked(x, n_cells=380, n_shards=n_shards, n_epochs=200)
    assert kept_neighbors(x, positions) > 0.8 * kept_neighbors(x, plain_map(400, 200))


def test_as_many_cells_as_rows():
    checked(blobs(120), n_cells=120)


def test_one_cell_that_holds_most_rows():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(2600, 10)) * 1e-3, 5 * rng.normal(size=(400, 10))]).astype(np.float32)
    result = make_map(x, n_cells=30, n_shards=2, n_epochs=60)
    assert result.diagnostics["largest_cell"] <= 4 * 3000 / 30
    assert result.diagnostics["imbalance"] < 1.25
    assert np.isfinite(result.positions).all()
    assert len(np.unique(result.positions, axis=0)) == 3000


KINDS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "columns first": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "uint8": lambda x: x.astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
}


@pytest.fixture(scope="module", params=[1, 2])
def of_float32(request: pytest.FixtureRequest) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """Values that all kinds hold exactly, settings, and the map."""
    x = np.round(np.clip(8 * blobs(600) + 100, 0, 255)).astype(np.float32)
    settings: dict[str, Any] = {"n_epochs": 20, "n_shards": request.param}
    return x, settings, checked(x, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_values_of_another_dtype_give_the_same_map(of_float32, kind):
    x, settings, expected = of_float32
    np.testing.assert_array_equal(checked(KINDS[kind](x), **settings), expected)


def test_cosine_equals_euclidean_on_unit_vectors():
    x = blobs(800) + 2
    lengths = np.exp(np.random.default_rng(1).normal(size=800))[:, None]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    by_angle = checked((x * lengths).astype(np.float32), metric="cosine", n_epochs=100)
    by_distance = checked(unit.astype(np.float32), n_epochs=100)
    kept = kept_neighbors(unit, by_angle), kept_neighbors(unit, by_distance)
    assert kept[0] == pytest.approx(kept[1], rel=0.05)
    assert kept_neighbors(unit, checked(x.astype(np.float32), n_epochs=100)) < kept[0]


def test_cosine_with_rows_of_zeros():
    x = blobs(300)
    x[::50] = 0
    checked(x, metric="cosine")


@pytest.mark.parametrize("n_dims", [1, 2, 3])
@pytest.mark.parametrize("n_components", [2, 3])
def test_few_dimensions(n_dims, n_components):
    x = np.random.default_rng(0).normal(size=(500, n_dims)).astype(np.float32)
    positions = checked(x, n_components=n_components, n_epochs=150)
    assert len(np.unique(positions, axis=0)) == 500
    assert kept_neighbors(x, positions) > 0.6


def test_more_dimensions_than_rows():
    checked(np.random.default_rng(0).normal(size=(40, 900)).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_data_does_not_matter(scale):
    x = blobs(600)
    expected = kept_neighbors(x, plain_map(600, 100))
    scaled = (x.astype(np.float64) * scale).astype(np.float32)
    assert kept_neighbors(x, checked(scaled, n_epochs=100)) > 0.95 * expected


def test_a_shift_of_the_data_does_not_matter():
    x = blobs(600)
    expected = kept_neighbors(x, plain_map(600, 100))
    assert kept_neighbors(x, checked(x + np.float32(500), n_epochs=100)) > 0.95 * expected


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")], ids=["nan", "inf", "-inf"]
)
def test_a_row_with_nan_or_infinity_is_named(value, message):
    x = blobs(300)
    x[[123, 200], 5] = value
    with pytest.raises(InputError, match=f"{message}.*row 123, column 5"):
        make_map(x)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (5,), (2, 3, 4)])
def test_arrays_that_are_not_two_dimensional(shape):
    with pytest.raises(InputError):
        make_map(np.zeros(shape, np.float32))
