"""Measurements of a run, compared with independent references, and the warnings about poor ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans

from nomad_dask.errors import NomadWarning
from nomad_dask.maps import read_map
from nomad_dask.params import Params
from nomad_dask.partition.kmeans_convergence import kmeans_convergence
from nomad_dask.pipeline import diagnostics, graph_components
from tests.helpers.runs import blobs, make_map, worker_processes

FIGURES = {
    "recall", "imbalance", "components", "outside_largest", "in_small_components", "kmeans_shift", "kmeans_converged",
}  # fmt: skip


def whole_graph(home: Path, n_shards: int) -> np.ndarray:
    """Assemble the graph of all shards from its files; return the sizes of its components, largest first."""
    ends, sizes = [], []
    for s in range(n_shards):
        sizes.append(len(np.load(home / f"graph/{s:04d}.indptr.npy")) - 1)
    starts = np.cumsum([0, *sizes])
    for s in range(n_shards):
        indptr, indices = (np.load(home / f"graph/{s:04d}.{what}.npy") for what in ("indptr", "indices"))
        ends.append((np.repeat(np.arange(sizes[s]), np.diff(indptr)) + starts[s], indices + starts[s]))
        if n_shards > 1:
            here, there, edges = (np.load(home / f"graph/{s:04d}.out_{w}.npy") for w in ("from", "to", "edges"))
            ends.append((here + starts[s], there + np.repeat(starts[:-1], np.diff(edges))))
    a, b = (np.concatenate(part) for part in zip(*ends, strict=True))
    graph = sp.coo_array((np.ones(len(a)), (a, b)), shape=(starts[-1], starts[-1]))
    return np.sort(np.bincount(connected_components(graph, directed=False)[1]))[::-1]


@pytest.mark.parametrize(("n_shards", "k"), [(1, 15), (3, 15), (3, 2)])
def test_components_are_those_of_the_whole_graph(tmp_path, monkeypatch, n_shards, k):
    monkeypatch.setattr(graph_components, "_EDGES_PER_READ", 700)
    monkeypatch.setattr(graph_components, "_ROWS_PER_READ", 100)
    x = blobs(1500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadWarning)
        found = make_map(
            x, workspace=tmp_path / "w", keep_stages=True, n_shards=n_shards, n_neighbors=k, n_epochs=2, cell_size=60
        ).diagnostics
    sizes = whole_graph(tmp_path / "w", n_shards)
    assert found["components"] == len(sizes)
    assert found["outside_largest"] == pytest.approx(1 - sizes[0] / 1500)
    assert found["in_small_components"] == pytest.approx(sizes[sizes < 15].sum() / 1500)
    assert len(sizes) > 1
    assert not list((tmp_path / "w").glob("graph/*components*"))


def test_a_row_with_more_edges_than_fit_in_one_read(tmp_path, monkeypatch):
    x = blobs(400)
    plain = make_map(x, n_epochs=1).diagnostics
    monkeypatch.setattr(graph_components, "_EDGES_PER_READ", 1)
    monkeypatch.setattr(graph_components, "_ROWS_PER_READ", 3)
    assert make_map(x, n_epochs=1).diagnostics["components"] == plain["components"]


def test_kmeans_convergence_against_another_lloyd_iteration():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 5)).astype(np.float32)
    model = KMeans(300, n_init=1, max_iter=300, tol=0, random_state=0).fit(rows)
    at_rest = kmeans_convergence(rows, model.labels_, model.cluster_centers_.astype(np.float32))
    assert at_rest["kmeans_shift"] < 1e-3
    assert at_rest["kmeans_converged"] is True
    centers = rows[rng.choice(4000, 300, replace=False)]
    labels = ((rows[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    begun = kmeans_convergence(rows, labels, centers)
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(300)])
    shift = ((means - centers)[labels] ** 2).sum() / ((rows - centers[labels]) ** 2).sum()
    assert begun["kmeans_shift"] == pytest.approx(np.sqrt(shift), rel=1e-3)
    assert begun["kmeans_converged"] is False
    assert kmeans_convergence(rows[:1], np.zeros(1, np.int32), rows[:1])["kmeans_converged"] is True


def skewed(kind: str, n: int = 8000, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "power law":
        shares = 1 / np.arange(1, 201) ** 1.5
        labels = rng.choice(200, n, p=shares / shares.sum())
    else:
        labels = np.where(rng.random(n) < 0.6, 0, rng.integers(1, 20, n))
    centers = 6 * rng.normal(size=(200, d))
    spread = np.where((labels == 0) & (kind == "one dense cluster"), 1e-2, 1.0)
    return (centers[labels] + rng.normal(size=(n, d)) * spread[:, None]).astype(np.float32)


@pytest.mark.parametrize("n_shards", [2, 5])
@pytest.mark.parametrize("kind", ["one cluster of 60 %", "one dense cluster", "power law"])
def test_shards_of_skewed_data_are_balanced(kind, n_shards):
    result = make_map(skewed(kind), n_shards=n_shards, n_epochs=1, n_neighbors=5)
    rows = np.bincount(result.cell_labels)
    assert rows.sum() == 8000
    assert result.diagnostics["imbalance"] < diagnostics.MAX_IMBALANCE


def test_every_run_reports_all_measurements(tmp_path):
    x = blobs(600)
    with worker_processes(2) as client:
        result = make_map(x, client=client, n_shards=2, n_epochs=2, output=tmp_path / "map.parquet")
    assert result.diagnostics.keys() >= FIGURES
    assert read_map(tmp_path / "map.parquet").metadata["diagnostics"] == result.diagnostics


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "recall": ({"recall": 0.89, "n_probes": 7.0}, r"found 89% .* 95% were wanted: .*n_probes=14"),
    "imbalance": ({"imbalance": 1.3, "n_cells": 40}, r"1\.30 times the mean .*n_cells=80"),
    "components": ({"in_small_components": 0.3, "components": 99}, r"30% of the rows .*99 components.*n_neighbors=30"),
    "kmeans": ({"kmeans_converged": False, "kmeans_shift": 0.4}, r"not converged: .* 40% .*n_cells"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_poor_measurement_raises_a_warning_with_advice(kind):
    measured, message = BAD[kind]
    with pytest.warns(NomadWarning, match=message) as caught:
        diagnostics.warn(measured, Params())
    assert len(caught) == 1


def test_good_measurements_and_explicit_choices_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnostics.warn({"recall": 0.91, "imbalance": 1.19, "in_small_components": 0.19}, Params())
        diagnostics.warn({"recall": 0.5}, Params(n_probes=1))
        diagnostics.warn({}, Params())


def test_a_fragmented_graph_raises_a_warning():
    """The paper's settings with few neighbors leave cells unconnected."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 8)).astype(np.float32)
    with pytest.warns(NomadWarning, match="small components of the neighbor graph"):
        make_map(x, **Params.paper(n_epochs=1, cell_size=20).as_dict())
