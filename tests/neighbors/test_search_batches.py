"""Search batches: every cell is in one, of its own shard, and they are about equally large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.neighbors.halo import halo_region, open_vectors
from nomad_dask.neighbors.search_batches import SearchBatches, load_search_batches
from nomad_dask.params import Params
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.plan import HALO_CELLS
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources import open_source
from tests.helpers.host_runtime import is_emulated
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
    return SearchBatches(catalog, shards * n_per_shard + rng.integers(0, n_per_shard, len(counts)), n_per_shard)


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


def test_batches_of_a_shard_have_about_as_many_rows(run):
    batches = load_search_batches(run)
    rows = np.bincount(batches.of_cell, batches.catalog.counts)
    np.testing.assert_array_equal(rows.reshape(2, 3).sum(axis=1), batches.catalog.shard_rows())
    for of_shard in rows.reshape(2, 3):
        assert of_shard.max() < 1.2 * of_shard.mean()


def test_a_region_is_the_batch_and_the_cells_nearest_to_its_own(run, backend):
    batches = load_search_batches(run)
    centroids = batches.catalog.centroids.astype(np.float64)
    for batch in (0, 3) if is_emulated(backend) else range(6):
        region = halo_region(batches, batch, across_shards=True, backend=backend)
        own = batches.cells(batch)
        distances = ((centroids[own, None] - centroids) ** 2).sum(axis=2)
        nearest = np.unique(np.argsort(distances, axis=1)[:, :HALO_CELLS])
        np.testing.assert_array_equal(region.cells, np.concatenate([own, np.setdiff1d(nearest, own)]))
        assert region.n_batch_rows == batches.catalog.counts[own].sum()
        within = halo_region(batches, batch, across_shards=False, backend=backend)
        assert (batches.catalog.shard_of(within.cells) == batches.shard(batch)).all()


def test_the_rows_of_a_region_are_those_of_its_cells(run, cpu_backend):
    batches = load_search_batches(run)
    vectors = [np.load(run.file(shard_file(s, "vectors"))) for s in range(2)]
    catalog = batches.catalog
    for batch in range(6):
        region = halo_region(batches, batch, across_shards=True, backend=cpu_backend)
        expected = np.concatenate([
            vectors[catalog.shard_of(cell)][catalog.starts[cell] : catalog.starts[cell] + catalog.counts[cell]]
            for cell in region.cells
        ])  # fmt: skip
        opened = open_vectors(run, batches, batch, region)
        np.testing.assert_array_equal(opened.read(0, opened.n_rows), expected)
