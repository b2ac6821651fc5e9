"""Maps of handwritten digits preserve neighbors; thresholds are a little below measured values."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from tests.helpers.runs import make_map


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_digits(return_X_y=True)
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def default(digits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return make_map(digits[0]).positions


def kept_neighbors(x: np.ndarray, positions: np.ndarray, k: int = 10) -> float:
    a, b = (NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(return_distance=False) for rows in (x, positions))
    return float(np.mean([len(set(i) & set(j)) for i, j in zip(a, b, strict=True)])) / k


def test_one_shard(digits, default):
    x, labels = digits
    pca = PCA(2).fit_transform(x)
    kept, trusted = kept_neighbors(x, default), trustworthiness(x, default, n_neighbors=10)
    accuracy = cross_val_score(KNeighborsClassifier(10), default, labels, cv=5).mean()
    assert kept > 0.56  # 0.60 measured
    assert kept > 4 * kept_neighbors(x, pca)
    assert trusted > 0.985
    assert accuracy > 0.95


def test_four_shards(digits, default):
    x, _ = digits
    positions = make_map(x, n_shards=4, n_epochs=150).positions
    assert kept_neighbors(x, positions) > 0.9 * kept_neighbors(x, default)
    assert trustworthiness(x, positions, n_neighbors=10) > 0.97


def test_three_dimensions_preserve_more_neighbors(digits):
    x = digits[0][::2]
    solid, flat = (make_map(x, n_components=dim, n_epochs=100).positions for dim in (3, 2))
    assert kept_neighbors(x, solid) > kept_neighbors(x, flat)
