"""Maps of data outside the range of float32: as good as those of ordinary data, and extreme rows are named."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nomad_dask.errors import NomadWarning
from tests.helpers.runs import make_map
from tests.pipeline.test_quality import kept_neighbors

X = load_digits(return_X_y=True)[0][::2]
SETTINGS = {"n_epochs": 100}


def quality(x: np.ndarray, rows: slice = slice(None), **settings: object) -> float:
    return kept_neighbors(X[rows], make_map(x, **SETTINGS, **settings).positions[rows])


@pytest.fixture(scope="module")
def ordinary() -> float:
    return quality(X.astype(np.float32))


@pytest.mark.parametrize(
    "x",
    [
        X.astype(np.float32) * np.float32(1e19),
        X.astype(np.float32) * np.float32(1e-30),
        X * 1e200,
        X + 1e11,
        (X + 2**52).astype(np.int64),
    ],
    ids=["1e19", "1e-30", "1e200", "offset", "int64"],
)
def test_any_scale_and_offset(x, ordinary):
    assert quality(x) > ordinary - 0.03


@pytest.mark.parametrize("scale", [1e-25, 1e19, 1e250])
def test_any_scale_by_cosine(scale):
    expected = quality(X, metric="cosine")
    assert quality(X * scale, metric="cosine") > expected - 0.03


@pytest.mark.parametrize("value", [1e12, 1e20, 3e38])
@pytest.mark.parametrize("settings", [{}, {"n_shards": 2}], ids=["one shard", "two shards"])
def test_extreme_rows_are_named_and_disturb_no_other(value, settings, ordinary):
    x = X.astype(np.float32)
    x[[3, 700], 5] = value
    with pytest.warns(NomadWarning, match=r"2 rows \(the first: 3, 700\) have values so much larger"):
        positions = make_map(x, **SETTINGS, **settings).positions
    others = np.delete(np.arange(len(x)), [3, 700])
    assert np.isfinite(positions).all()
    assert kept_neighbors(X[others], positions[others]) > ordinary - 0.04


def test_the_same_bits_at_every_scale():
    maps = [make_map(np.ldexp(X, exponent), **SETTINGS).positions for exponent in (100, 800, -800)]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
