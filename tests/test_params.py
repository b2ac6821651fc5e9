"""`Params`: every setting is documented, checked, and named when it is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.params import (
    AFFINITIES,
    COARSE_INITS,
    INITS,
    METRICS,
    NORMALIZATIONS,
    PRESETS,
    REPULSION_METHODS,
    Params,
)

RANGES: list[tuple[str, list[Any], list[Any], str]] = [
    ("n_neighbors", [1, 1000], [0, 1001, -3], "give a whole number from 1 to 1000"),
    ("n_tail_neighbors", [0, 64], [-1, 65], "give a whole number from 0 to 64"),
    ("n_components", [2, 3], [1, 4], "give a whole number from 2 to 3"),
    ("random_state", [0, 2**63 - 1], [-1, 2**63], "give a whole number from 0"),
    ("sync_every", [1, 4], [0, 5], "give a whole number from 1 to 4"),
    ("n_epochs", [None, 1, 100_000], [0, 100_001], "give a whole number from 1 to 100000, or None"),
    ("learning_rate", [None, 1e-9, 1e6], [0, -1.0, 2e6], "give a number above 0 to 1e+06, or None"),
    ("momentum", [None, 0, 0.999], [-0.1, 1], "give a number from 0 to 0.999, or None"),
    ("learning_rate_end", [0, 1], [-0.1, 1.1], "give a number from 0 to 1"),
    ("max_step_norm", [None, 0.1, 1e6], [0, -1, 1e9], "give a number from 1e-06 to 1e+06, or None"),
    ("init_std", [1e-4, 10], [0, -1, 1e30], "give a number from 1e-12 to 1e+06"),
    ("late_exaggeration", [None, 0.5, 1000], [0, 1001], "give a number above 0 to 1000, or None"),
    ("n_noise", [None, 1], [0], "give a whole number from 1, or None"),
    ("n_negatives", [0, 10_000], [-1, 10_001], "give a whole number from 0 to 10000"),
    ("n_sampled_cells", [1, 64], [0, 65], "give a whole number from 1 to 64"),
    ("mesh_spacing", [0.01, 10], [0, 1e-300, 11], "give a number from 0.001 to 10"),
    ("n_cells", [None, 1, 10_000_000], [0, 10_000_001], "give a whole number from 1 to 1e+07, or None"),
    ("cell_size", [1, 10**9], [0], "give a whole number from 1"),
    ("n_probes", [None, 1, 100_000], [0, 100_001], "give a whole number from 1 to 100000, or None"),
    ("target_recall", [0, 1], [-0.1, 1.1], "give a number from 0 to 1"),
    ("n_shards", [None, 1, 100_000], [0, 100_001], "give a whole number from 1 to 100000, or None"),
]
CHOICES = {
    "metric": METRICS, "preset": PRESETS, "affinity": AFFINITIES, "normalization": NORMALIZATIONS,
    "repulsion_method": REPULSION_METHODS, "init": INITS, "coarse_init": COARSE_INITS,
}  # fmt: skip


def test_every_setting_is_tested_and_documented():
    names = {f.name for f in fields(Params)}
    assert names == {name for name, *_ in RANGES} | set(CHOICES) | {"cross_shard_attraction", "precomputed_knn"}
    assert Params.describe().keys() == names
    assert all(text.endswith(".") for text in Params.describe().values())


@pytest.mark.parametrize(("name", "good", "bad", "message"), RANGES)
def test_ranges(name, good, bad, message):
    for value in good:
        assert getattr(Params(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(InputError) as caught:
            Params(**{name: value})
        assert str(caught.value).startswith(f"{name}={value!r} is out of range: {message}")
        assert isinstance(caught.value, ValueError)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [name for name, *_ in RANGES])
@pytest.mark.parametrize("value", ["7", [7], True, math.nan, 1j, b"7"])
def test_numbers_are_numbers(name, value):
    with pytest.raises(InputError, match=f"^{name}="):
        Params(**{name: value})


def test_whole_numbers_are_whole():
    for value in (15.0, 15.5, np.float32(15)):
        with pytest.raises(InputError, match=r"n_neighbors=.* give a whole number from 1 to 1000"):
            Params(n_neighbors=value)


def test_numbers_of_numpy_become_plain():
    params = Params(n_neighbors=np.int64(9), momentum=np.float32(0.5), init_std=2)
    assert (type(params.n_neighbors), type(params.momentum), type(params.init_std)) == (int, float, float)
    assert params.momentum == 0.5


@pytest.mark.parametrize(("name", "values"), CHOICES.items())
def test_choices(name, values):
    for value in values:
        assert getattr(Params(**{name: value}), name) == value
    with pytest.raises(InputError) as caught:
        Params(**{name: values[0] + "s"})
    assert f"Did you mean '{values[0]}'" in str(caught.value)
    for value in ("", None, 3, ["a"], {}):
        with pytest.raises(InputError, match=f"^{name}="):
            Params(**{name: value})


def test_precomputed_neighbors_are_none_or_a_digest():
    assert Params(precomputed_knn=f"given:{'0' * 32}").has_given_neighbors
    assert not Params(precomputed_knn=None).has_given_neighbors
    for value in ("given:", f"given:{'0' * 31}", f"given:{'0' * 33}", 3, True, ([0], [1.0])):
        with pytest.raises(InputError, match=r"^precomputed_knn=.* is not accepted: give the neighbors to the estim"):
            Params(precomputed_knn=value)


def test_an_init_may_be_the_digest_of_positions():
    params = Params(init=f"given:{'0' * 32}")
    assert params.has_given_init
    assert not Params().has_given_init
    for value in ("given:", "given:xyz", f"given:{'0' * 31}", f"given:{'0' * 33}"):
        with pytest.raises(InputError, match=r"^init="):
            Params(init=value)


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_flags(value):
    with pytest.raises(InputError, match="give True or False"):
        Params(cross_shard_attraction=value)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match="n_neighbours"):
        Params(n_neighbours=15)


def test_frozen():
    with pytest.raises(AttributeError):
        Params().n_neighbors = 3


@given(
    k=st.integers(1, 1000),
    rate=st.none() | st.floats(1e-6, 1e6),
    momentum=st.none() | st.floats(0, 0.999),
    weights=st.sampled_from(AFFINITIES),
    seed=st.integers(0, 2**63 - 1),
)
def test_through_json_and_back(k, rate, momentum, weights, seed):
    params = Params(n_neighbors=k, learning_rate=rate, momentum=momentum, affinity=weights, random_state=seed)
    assert Params(**json.loads(json.dumps(params.as_dict()))) == params
    assert params.replace() == params
    assert params.replace(n_neighbors=3).n_neighbors == 3
    with pytest.raises(InputError):
        params.replace(n_neighbors=0)


def test_the_papers_settings():
    paper = Params.paper()
    assert (paper.n_neighbors, paper.affinity, paper.init_std) == (8, "softmax-inverse", 1e-4)
    assert (paper.normalization, paper.repulsion_method, paper.n_sampled_cells) == ("point", "means", 1)
    assert (paper.learning_rate_end, paper.cross_shard_attraction, paper.coarse_init) == (0.0, False, "never")
    assert paper.init == "pca"
    assert Params.paper(n_neighbors=9, random_state=4) == paper.replace(n_neighbors=9, random_state=4)
