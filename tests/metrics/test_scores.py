from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from nomad_dask.errors import InputError, ResourceError
from nomad_dask.maps import as_map
from nomad_dask.metrics import measure
from nomad_dask.metrics.sample import random_pairs
from nomad_dask.metrics.scores import score
from nomad_dask.sources.base import Source


class Rows(Source):
    """An array as a source, optionally with chunk boundaries."""

    def __init__(self, X, breaks=()):
        self.X, self._breaks = X, breaks
        self.n_rows, self.n_dims = X.shape
        self.dtype, self.name = X.dtype, "test rows"
        self.largest = 0

    def read(self, start, stop):
        self.largest = max(self.largest, stop - start)
        return np.ascontiguousarray(self.X[start:stop])

    def fingerprint(self):
        return "none"

    def chunk_boundaries(self):
        return self._breaks


def noisy_map(seed, n=300, d=12, dtype=np.float32):
    """Return clustered vectors and a map that keeps some of their order."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(8, d)) * 3)[rng.integers(8, size=n)] + rng.normal(size=(n, d))
    return X.astype(dtype), (X[:, :2] + rng.normal(size=(n, 2))).astype(np.float32)


def brute_np(X, Y, k, metric="euclidean"):
    """NP@k of every row, by scikit-learn's brute force in float64."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    search = {"n_neighbors": k, "algorithm": "brute"}
    near_x = NearestNeighbors(metric=metric, **search).fit(X).kneighbors(return_distance=False)
    near_y = NearestNeighbors(**search).fit(Y).kneighbors(return_distance=False)
    return np.array([len(set(a) & set(b)) / k for a, b in zip(near_x, near_y, strict=True)])


def exhaustive_triplets(X, Y):
    """Random triplet accuracy over all triplets."""
    dx, dy = pairwise_distances(X.astype(np.float64)), pairwise_distances(Y.astype(np.float64))
    agree = (dx[:, :, None] < dx[:, None, :]) == (dy[:, :, None] < dy[:, None, :])
    i = np.arange(len(X))
    different = (i[:, None, None] != i[:, None]) & (i[:, None, None] != i) & (i[:, None] != i)
    return agree[different].mean()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbors_of_all_rows_equal_brute_force(dtype, metric):
    X, Y = noisy_map(0)
    X = (X * 100).astype(dtype) if dtype == np.int16 else X.astype(dtype)
    got = score(Rows(X), Y, ks=(1, 10, 50), metric=metric, n_queries=300, n_triplets=300)
    for k in (1, 10, 50):
        expected = brute_np(X, Y, k, metric).mean()
        assert got.neighbors[k].value == pytest.approx(expected, abs=1e-12)
        assert got.neighbors[k].low == got.neighbors[k].high == got.neighbors[k].value
    assert got.n_queries == 300


def test_queries_are_a_sample_whose_scores_are_exact():
    X, Y = noisy_map(1, n=2000)
    got = score(Rows(X), Y, ks=(15,), n_queries=100, random_state=5)
    chosen = np.sort(np.random.default_rng(5).choice(2000, 100, replace=False))
    assert got.neighbors[15].value == pytest.approx(brute_np(X, Y, 15)[chosen].mean(), abs=1e-12)
    assert got.neighbors[15].low < got.neighbors[15].value < got.neighbors[15].high


@pytest.mark.parametrize("offset", [0, 1e4])
def test_an_offset_and_far_outliers_change_nothing(offset):
    X, Y = noisy_map(2, n=400, dtype=np.float64)
    X += offset
    X[[3, 77]] = [[1e6] * 12, [-1e6] * 12]
    got = score(Rows(X), Y, ks=(10,), n_queries=400, n_triplets=400)
    assert got.neighbors[10].value == pytest.approx(brute_np(X, Y, 10).mean(), abs=1e-12)


def test_clusters_tighter_than_float32_can_tell():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 12))
    X = centers[rng.integers(4, size=600)] + rng.normal(size=(600, 12)) * 1e-4
    Y = X[:, :2] * 1e4
    got = score(Rows(X), Y, ks=(5, 10), n_queries=600, n_triplets=600)
    for k in (5, 10):
        expected = [  # differences, as scikit-learn's expanded squares lose digits here
            len(set(np.argsort(((X - x) ** 2).sum(1))[1 : k + 1]) & set(np.argsort(((Y - y) ** 2).sum(1))[1 : k + 1]))
            for x, y in zip(X, Y, strict=True)
        ]
        assert got.neighbors[k].value == pytest.approx(np.mean(expected) / k, abs=1e-12)


def test_of_equal_rows_any_are_the_nearest():
    rng = np.random.default_rng(0)
    X, Y = np.repeat(rng.normal(size=(4, 7)), 1500, axis=0), rng.normal(size=(6000, 2))
    Y[:, 0] += np.repeat(np.arange(4) * 100, 1500)
    got = score(Rows(X), Y, ks=(10, 50), n_queries=200, n_triplets=200)
    assert got.neighbors[10].value == got.neighbors[50].value == 1


def test_triplets_equal_a_loop_over_the_same_triplets():
    X, Y = noisy_map(3, n=60)
    got = score(Rows(X), Y, n_queries=20, n_triplets=200, random_state=1)
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(60, 20, replace=False))
    dx, dy = pairwise_distances(X.astype(np.float64)), pairwise_distances(Y.astype(np.float64))
    pairs = random_pairs(rng, chosen, 60, 10)
    agree = []
    for a, ends in zip(chosen, pairs, strict=True):
        agree += [(dx[a, b] < dx[a, c]) == (dy[a, b] < dy[a, c]) for b, c in ends]
    assert got.triplets.value == pytest.approx(np.mean(agree), abs=1e-12)
    assert got.n_triplets == 200


def test_triplets_have_three_different_rows_each_as_likely():
    rng = np.random.default_rng(0)
    pairs = random_pairs(rng, np.arange(4), 4, 30_000)
    for own in range(4):
        counts = np.zeros((4, 4))
        np.add.at(counts, (pairs[own, :, 0], pairs[own, :, 1]), 1)
        possible = np.ones((4, 4), bool)
        possible[own] = possible[:, own] = False
        np.fill_diagonal(possible, False)
        assert not counts[~possible].any()
        np.testing.assert_allclose(counts[possible], 5000, rtol=0.08)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_intervals_hold_the_truth_19_times_in_20(metric):
    X, Y = noisy_map(4, n=200, d=6)
    labels = (X[:, 0] > 0) + 2 * (X[:, 1] > X[:, 0])
    of_all = score(Rows(X), Y, labels=labels, ks=(10,), n_queries=200, metric=metric)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True) if metric == "cosine" else X
    truth = {
        "triplets": exhaustive_triplets(unit, Y),
        "neighbors": brute_np(X, Y, 10, metric).mean(),
        "labels": of_all.labels.value,
        "rank correlation": spearmanr(pdist(X, metric), pdist(Y)).statistic,
    }
    widest = {"triplets": 0.25, "neighbors": 0.25, "labels": 0.25, "rank correlation": 0.2}
    held = dict.fromkeys(truth, 0)
    for seed in range(150):
        got = score(Rows(X), Y, labels=labels, ks=(10,), n_queries=60, n_triplets=600, metric=metric, random_state=seed)
        estimates = {
            "triplets": got.triplets,
            "neighbors": got.neighbors[10],
            "labels": got.labels,
            "rank correlation": got.rank_correlation,
        }
        for kind, estimate in estimates.items():
            held[kind] += estimate.low <= truth[kind] <= estimate.high
    # Binomial(150, 0.95) is below 132 once in 10,000. Distances of nearby queries are alike, so those of the rank
    # correlation are not too wide either; triplets are on the safe side, so no upper bound.
    assert {kind: n for kind, n in held.items() if n < 132} == {}
    assert {kind: e for kind, e in estimates.items() if e.high - e.low >= widest[kind]} == {}


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(3, 200),
    d=st.integers(1, 5),
    block=st.integers(1, 64),
    grid=st.booleans(),
)
def test_blocks_do_not_matter(seed, n, d, block, grid):
    X, Y = noisy_map(seed, n=n, d=max(d, 2))
    if grid:  # many ties
        X = np.round(X / 4)
    labels = np.round(Y[:, 0]).astype(int)
    with pytest.MonkeyPatch.context() as patch:
        whole = score(Rows(X), Y, labels=labels, n_queries=50, n_triplets=100, random_state=seed)
        patch.setattr(measure, "_MAX_BLOCK_ROWS", block)
        source = Rows(X, breaks=(n // 3, n // 2))
        parts = score(source, Y, labels=labels, n_queries=50, n_triplets=100, random_state=seed)
    assert source.largest <= block
    assert parts == whole


def test_memory_bounds_the_blocks():
    X, Y = noisy_map(5, n=5000)
    source = Rows(X)
    small = score(source, Y, n_queries=100, max_bytes=1 << 20)
    assert source.largest < 1000
    assert small == score(Rows(X), Y, n_queries=100)
    with pytest.raises(ResourceError, match="give fewer queries"):
        score(Rows(X), Y, n_queries=1000, max_bytes=1 << 18)


def test_a_map_that_is_the_data_scores_one():
    Y = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    got = score(Rows(Y), Y, n_queries=200)
    assert all(e.value == e.low == e.high == 1 for e in [*got.neighbors.values(), got.triplets])
    assert got.labels is None


def test_a_random_map_scores_by_chance():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(1001, 5)), rng.normal(size=(1001, 2))
    got = score(Rows(X), Y, ks=(50,), labels=rng.permutation(np.arange(1001) % 2), n_queries=1001)
    assert got.neighbors[50].value == pytest.approx(0.05, abs=0.01)
    assert got.triplets.value == pytest.approx(0.5, abs=0.01)
    assert got.labels.value == pytest.approx(0.5, abs=0.06)


def test_a_map_fallen_into_one_point_gets_nothing_for_it():
    X, _ = noisy_map(6, n=1000)
    got = score(Rows(X), np.zeros((1000, 2), np.float32), ks=(10,), n_queries=500)
    assert got.neighbors[10].value < 0.05
    assert got.triplets.value == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(value, dtype):
    X, Y = noisy_map(7, n=400, dtype=dtype)
    Y[[300, 350], 1] = value
    with pytest.raises(InputError, match=r"2 of 400 rows of the map have no finite position, the first is row 300 "):
        score(Rows(X), Y)
    X, Y = noisy_map(7, n=400, dtype=dtype)
    X[399, 3] = value
    what = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(InputError, match=rf"contains {what}: test rows, row 399, column 3"):
        score(Rows(X), Y, n_queries=5, max_bytes=1 << 18)


@pytest.mark.parametrize("power", [-1000, -500, -100, 60, 500, 1000])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scale_changes_nothing(metric, power):
    X, Y = noisy_map(13, n=150, dtype=np.float64)
    X += 3
    more = {"metric": metric, "n_queries": 60, "n_triplets": 600, "labels": np.arange(150) % 3}
    expected = score(Rows(X), Y.astype(np.float64), **more)
    assert score(Rows(np.ldexp(X, power)), np.ldexp(Y.astype(np.float64), power), **more) == expected


@pytest.mark.parametrize("largest", [2**63 - 1, 2**62])
def test_whole_numbers_of_64_bits(largest):
    X, _ = noisy_map(14, n=100)
    whole = np.rint(X.astype(np.float64) / np.abs(X).max() * largest * 0.999).astype(np.int64)
    got = score(Rows(whole), whole[:, :2], n_queries=100)
    assert got == score(Rows(whole.astype(np.float64)), whole[:, :2].astype(np.float64), n_queries=100)


def exact_np(X, Y, k):
    """Mean NP@k from exact squared distances: X and Y hold Python's whole numbers."""
    shares = []
    for i in range(len(X)):
        of_x, of_y = ([sum((a - b) ** 2 for a, b in zip(rows[i], row, strict=True)) for row in rows] for rows in (X, Y))
        others = [j for j in range(len(X)) if j != i]
        kth = sorted(of_x[j] for j in others)[k - 1]
        # Distances that differ by less than a float64 tells are equal.
        shares.append(
            sum(
                of_x[j] * 10**24 <= kth * (10**12 + 1) ** 2 for j in sorted(others, key=lambda j, s=of_y: (s[j], j))[:k]
            )
            / k
        )
    return np.mean(shares)


def hard_rows(case):
    """Return float64 vectors whose squares, or digits, a careless computation loses."""
    rng = np.random.default_rng(5)
    X, Y = noisy_map(15, n=90, d=4, dtype=np.float64)
    X, Y = np.round(X * 64) / 64, np.round(Y.astype(np.float64) * 64) / 64  # so that offsets are exact
    if case == "offset":
        return X + 1e9, Y
    if case == "far offset":
        return X + 2.0**45, Y + 2.0**45
    if case == "one far row":
        X[7] = 1e200
        return X, Y
    if case == "far rows":
        X[::3] *= 2.0**600
        return X, Y
    if case == "two far clusters":
        return X + np.where(rng.integers(2, size=(90, 1)), 2.0**44, 0), Y
    if case == "every magnitude":
        return X * np.ldexp(1.0, rng.integers(-900, 900, size=(90, 1))), Y
    if case == "largest":
        return np.sign(X) * (np.finfo(np.float64).max / 2) * (1 + np.abs(X) / np.abs(X).max()), Y
    if case == "smallest":
        return np.ldexp(np.round(X * 64), -1074), Y
    raise KeyError(case)


@pytest.mark.parametrize(
    "case",
    ["offset", "far offset", "one far row", "far rows", "two far clusters", "every magnitude", "largest", "smallest"],
)
def test_any_finite_numbers_are_right(case):
    X, Y = hard_rows(case)
    assert np.isfinite(X).all()
    got = score(Rows(X), Y, ks=(5,), n_queries=90, n_triplets=900)
    # Every float is a whole multiple of 2**-1074, so Python's whole numbers compute exactly.
    whole = [[[int(Fraction(v) * 2**1074) for v in row] for row in rows.tolist()] for rows in (X, Y)]
    assert got.neighbors[5].value == pytest.approx(exact_np(*whole, 5), abs=1e-12)


def test_more_near_rows_than_are_measured_at_once():
    """Rows that float32 cannot tell apart are all measured, however many there are."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 3))
    X[2500:] += 1e9
    got = score(Rows(X), X, ks=(10,), n_queries=50)
    assert got.neighbors[10].value == 1
    moved = X.copy()
    moved[2500:] = rng.permutation(moved[2500:])
    assert score(Rows(X), moved, ks=(10,), n_queries=200).neighbors[10].value < 0.65


def majority(Y, labels):
    """Label accuracy by plain loops: the nearest of the most frequent wins."""
    near = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(Y.astype(np.float64))
    hits = []
    for own, ids in zip(labels, near.kneighbors(return_distance=False), strict=True):
        if own is None:
            continue
        votes = [labels[i] for i in ids if labels[i] is not None]
        hits.append(bool(votes) and max(votes, key=votes.count) == own)
    return np.mean(hits)


@pytest.mark.parametrize("given_as", ["list", "numpy", "object", "arrow", "chunks", "dictionary", "pandas"])
def test_labels_of_any_kind(given_as):
    import pandas as pd

    X, Y = noisy_map(8)
    names = [["one", "two", "three"][i] for i in (Y[:, 0] // 3).astype(int) % 3]
    labels = {
        "list": names,
        "numpy": np.array(names),
        "object": np.array(names, dtype=object),
        "arrow": pa.array(names),
        "chunks": pa.chunked_array([names[:100], names[100:]]),
        "dictionary": pa.chunked_array(
            [pa.array(names[:7]).dictionary_encode(), pa.array(names[7:]).dictionary_encode()]
        ),
        "pandas": pd.Series(names, dtype="category"),
    }[given_as]
    got = score(Rows(X), Y, labels=labels, n_queries=300, n_triplets=300)
    assert got.labels.value == pytest.approx(majority(Y, names), abs=1e-12)


def test_missing_labels_neither_ask_nor_vote():
    X, Y = noisy_map(9)
    names = ["a" if y > 0 else "b" for y in Y[:, 0]]
    for i in range(0, 300, 3):
        names[i] = None
    got = score(Rows(X), Y, labels=names, n_queries=300, n_triplets=300)
    assert got.labels.value == pytest.approx(majority(Y, names), abs=1e-12)
    numbers = [np.nan if n is None else float(n == "a") for n in names]
    for kind in (numbers, pa.array(numbers, from_pandas=False), pa.chunked_array([numbers[:9], numbers[9:]])):
        assert score(Rows(X), Y, labels=kind, n_queries=300).labels == got.labels


def test_default_sizes_are_those_with_a_choice():
    X, Y = noisy_map(10, n=12)
    assert list(score(Rows(X), Y).neighbors) == [10]
    assert list(score(Rows(X), Y, ks=(np.int64(5), 10)).neighbors) == [5, 10]
    tiny = score(Rows(X[:3]), Y[:3])
    assert tiny.neighbors == {}
    assert tiny.n_queries == 3


def test_progress_and_plain_values():
    X, Y = noisy_map(11, n=500)
    done = []
    got = score(Rows(X, breaks=(200,)), Y, labels=[1] * 500, n_queries=10, on_progress=done.append, max_bytes=1 << 18)
    assert done[-1] == 500
    assert done == sorted(set(done))
    plain = got.as_dict()
    assert plain["neighbors"]["10"]["value"] == got.neighbors[10].value
    assert plain["labels"] == {"value": 1.0, "low": got.labels.low, "high": 1.0}
    assert 0.6 < got.labels.low < 0.8  # Wilson for 10 of 10 is 0.72


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((299, 2))}, "The map has 299 rows and test rows has 300: score a map"),
        ({"positions": np.zeros(300)}, "one row of coordinates for each of the 300 rows"),
        ({"positions": np.full((300, 2), "a")}, "one row of coordinates for each of the 300 rows"),
        ({"positions": np.full((300, 2), np.nan)}, "300 of 300 rows of the map have no finite position"),
        ({"metric": "cosin"}, "Did you mean 'cosine'"),
        ({"ks": (10, 0)}, "k=0 is out of range"),
        ({"ks": (10, 299)}, "k=299 is out of range: of 300 rows, all are neighbors, give a whole number from 1 to 298"),
        ({"ks": (5000,)}, "k=5000 is out of range"),
        ({"ks": (1.5,)}, "k=1.5 is not a whole number"),
        ({"ks": 10}, "ks=10 is not accepted"),
        ({"n_queries": 0}, "n_queries=0 is out of range"),
        ({"n_triplets": -1}, "n_triplets=-1 is out of range"),
        ({"n_queries": "a"}, "n_queries='a' is not a whole number"),
        ({"random_state": -1}, "random_state=-1 is out of range"),
        ({"labels": [None] * 300}, "All labels are missing"),
        ({"labels": pa.array([np.nan] * 300)}, "All labels are missing"),
        ({"labels": ["a"] + [None] * 299, "n_queries": 3}, "None of 3 sampled rows has a label"),
        ({"labels": [[1]] * 300}, "labels cannot be read"),
        ({"labels": 7}, "labels cannot be read"),
        ({"labels": [1, 2]}, "2 labels for 300 rows"),
        ({"labels": [1, "a"] * 150}, "strings or numbers of one kind"),
    ],
)
def test_wrong_use_is_named(change, message):
    X, Y = noisy_map(12)
    arguments = {"positions": Y} | change
    with pytest.raises(InputError, match=message):
        score(Rows(X), **arguments)


@pytest.mark.parametrize("given_as", ["map", "pandas", "polars", "arrow"])
def test_of_a_frame_only_the_positions_count(given_as):
    X, Y = noisy_map(16)
    table = pa.table({"cell": np.arange(300) * 1000, "y": Y[:, 1], "x": Y[:, 0], "name": ["a"] * 300})
    positions = {"map": as_map, "pandas": pa.Table.to_pandas, "polars": pl.from_arrow, "arrow": pa.table}[given_as](
        table
    )
    assert score(Rows(X), positions, n_queries=100) == score(Rows(X), Y, n_queries=100)
    with pytest.raises(InputError, match="x and y are required"):
        score(Rows(X), table.drop_columns(["x"]))
