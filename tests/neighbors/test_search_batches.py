"""Search batches: every cell is in one, of its own shard, and they are about equally large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.neighbors.halo import halo_region, open_vectors
from nomad_dask.neighbors.search_batches import SearchBatches, divide_into_batches, find_near_cells
from nomad_dask.params import Params
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.plan import HALO_CELLS
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources import open_source
from tests.helpers.runs import blobs, in_batches, make_map


@st.composite
def batches(draw: st.DrawFn) -> SearchBatches:
    """Cells of some shards in random batches."""
    n_shards, n_per_shard = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    cells_of_shards = draw(st.lists(st.integers(0, 6), min_size=n_shards, max_size=n_shards))
    offsets = np.concatenate([[0], np.cumsum(cells_of_shards)])
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    counts = rng.integers(0, 5, offsets[-1])
    shards = np.repeat(np.arange(n_shards), cells_of_shards)
    starts = np.concatenate([np.cumsum(c) - c for c in np.split(counts, offsets[1:-1])]).astype(np.int64)
    catalog = CellCatalog(rng.normal(size=(offsets[-1], 3)).astype(np.float32), counts, offsets, starts)
    of_cell = shards * n_per_shard + rng.integers(0, n_per_shard, len(counts))
    return SearchBatches(catalog, of_cell, n_per_shard * np.arange(n_shards + 1), None)


@given(batches())
def test_the_rows_of_a_batch_are_numbered_cell_by_cell(batches):
    starts = batches.starts()
    for shard in range(len(batches.catalog.shard_offsets) - 1):
        for batch in batches.of_shard(shard):
            assert batches.shard(batch) == shard
            next_row = 0
            for cell in batches.cells(batch):
                assert starts[cell] == next_row
                assert batches.catalog.shard_of(cell) == shard
                next_row += batches.catalog.counts[cell]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A workspace with two shards of three batches each."""
    x, workspace = blobs(6000), tmp_path_factory.mktemp("batches") / "w"
    settings = {"n_shards": 2, "n_cells": 600, "n_epochs": 1}
    with in_batches(3):
        make_map(x, workspace=workspace, keep_stages=True, **settings)
        source, params = open_source(x), Params(**settings)
        return RunContext(source, params, make_plan(source, params, 1, 1 << 33), Path(workspace), "cpu")


def divided(
    run: RunContext, backend: Any, n_batches: int = 3, region_rows: int = 0, across: bool = True
) -> SearchBatches:
    catalog = load_cell_catalog(run)
    near = find_near_cells(catalog, across, backend)
    coordinates = catalog.centroids @ np.load(run.file("cells/components.npy")).T
    return divide_into_batches(catalog, near, coordinates, n_batches, region_rows)


def test_batches_of_a_shard_have_about_as_many_rows(run, cpu_backend):
    batches = divided(run, cpu_backend)
    rows = np.bincount(batches.of_cell, batches.catalog.counts)
    np.testing.assert_array_equal(rows.reshape(2, 3).sum(axis=1), batches.catalog.shard_rows())
    for of_shard in rows.reshape(2, 3):
        assert of_shard.max() < 1.2 * of_shard.mean()


def test_a_region_is_the_batch_and_the_cells_nearest_to_its_own(run, backend):
    batches = divided(run, backend)
    centroids = batches.catalog.centroids.astype(np.float64)
    for batch in range(6):
        region = halo_region(batches, batch)
        own = batches.cells(batch)
        distances = ((centroids[own, None] - centroids) ** 2).sum(axis=2)
        nearest = np.unique(np.argsort(distances, axis=1)[:, :HALO_CELLS])
        np.testing.assert_array_equal(region.cells, np.concatenate([own, np.setdiff1d(nearest, own)]))
        assert region.n_batch_rows == batches.catalog.counts[own].sum()


def test_a_region_within_its_shard(run, cpu_backend):
    batches = divided(run, cpu_backend, across=False)
    centroids = batches.catalog.centroids.astype(np.float64)
    for batch in range(6):
        region, own = halo_region(batches, batch), batches.cells(batch)
        of_shard = np.arange(*batches.catalog.cells_of(batches.shard(batch)))
        distances = ((centroids[own, None] - centroids[of_shard]) ** 2).sum(axis=2)
        nearest = of_shard[np.unique(np.argsort(distances, axis=1)[:, :HALO_CELLS])]
        np.testing.assert_array_equal(region.cells, np.concatenate([own, np.setdiff1d(nearest, own)]))


@pytest.mark.parametrize("n_batches", [1, 3])
def test_a_batch_is_divided_while_its_region_is_too_large(run, cpu_backend, monkeypatch, n_batches):
    monkeypatch.setattr("nomad_dask.neighbors.search_batches.MIN_BATCH_ROWS", 100)
    whole = divided(run, cpu_backend, n_batches)
    limit = int(0.9 * max(halo_region(whole, b).offsets[-1] for b in range(whole.n_batches)))
    parts = divided(run, cpu_backend, n_batches, limit)
    assert parts.n_batches > whole.n_batches == 2 * n_batches
    for batch in range(parts.n_batches):
        region = halo_region(parts, batch)
        assert region.offsets[-1] <= limit or region.n_batch_rows < 200
        assert (parts.catalog.shard_of(parts.cells(batch)) == parts.shard(batch)).all()
    # Batches are only divided, and every cell is in one.
    pairs = np.unique(np.stack([whole.of_cell, parts.of_cell]), axis=1)
    assert len(set(pairs[1])) == pairs.shape[1] == parts.n_batches
    np.testing.assert_array_equal(np.unique(parts.of_cell), np.arange(parts.n_batches))
    for shard in range(2):
        assert {parts.shard(batch) for batch in parts.of_shard(shard)} == {shard}


def test_the_rows_of_a_region_are_those_of_its_cells(run, cpu_backend):
    batches = divided(run, cpu_backend)
    vectors = [np.load(run.file(shard_file(s, "vectors"))) for s in range(2)]
    catalog = batches.catalog
    for batch in range(6):
        region = halo_region(batches, batch)
        expected = np.concatenate([
            vectors[catalog.shard_of(cell)][catalog.starts[cell] : catalog.starts[cell] + catalog.counts[cell]]
            for cell in region.cells
        ])  # fmt: skip
        opened = open_vectors(run, batches, batch, region)
        np.testing.assert_array_equal(opened.read(0, opened.n_rows), expected)


def test_a_map_whose_batches_were_divided(monkeypatch, tmp_path):
    """Lists and graph are those of the rows, whatever the number of batches of a shard."""
    x, settings = blobs(5000), {"n_shards": 2, "n_cells": 400, "n_epochs": 2, "n_probes": 400}
    whole = make_map(x, **settings)
    monkeypatch.setattr("nomad_dask.neighbors.search_batches.MIN_BATCH_ROWS", 100)
    with in_batches(1, region_rows=3000):
        divided_map = make_map(x, workspace=tmp_path / "w", **settings)
    assert divided_map.diagnostics["edges"] == pytest.approx(whole.diagnostics["edges"], rel=1e-3)
    assert divided_map.diagnostics["components"] == whole.diagnostics["components"]
