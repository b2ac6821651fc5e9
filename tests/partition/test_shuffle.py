"""Every row is in exactly one shard, bit for bit, sorted by cell."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nomad_dask.callbacks import Event, StageFinished
from nomad_dask.cluster import connect
from nomad_dask.errors import Interrupted
from nomad_dask.layout.checkpoint import checkpoint_file
from nomad_dask.params import Params
from nomad_dask.partition.clustering import fit_cells_stage
from nomad_dask.partition.sampling import draw_sample
from nomad_dask.partition.shard_files import SHARD_FILES, shard_file
from nomad_dask.partition.shuffle_merge import group_cells, merge_runs
from nomad_dask.partition.shuffle_write import write_runs
from nomad_dask.pipeline.collect import collect_positions
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources import open_source
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import blobs, make_map


def load_shards(workspace: Path, n_shards: int) -> list[dict[str, np.ndarray]]:
    return [{name: np.load(workspace / shard_file(s, name)) for name in SHARD_FILES} for s in range(n_shards)]


def make_shards(x: Any, workspace: Path, **settings: Any) -> None:
    """Run the pipeline up to the shards; what is made from them later needs no check here."""

    def stop(event: Event) -> None:
        if isinstance(event, StageFinished) and event.stage == "shards":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        make_map(x, workspace=workspace, keep_stages=True, emit=stop, **settings)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("block_rows", [5000, 173])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", ">f4"])
def test_every_row_is_in_one_shard(tmp_path, monkeypatch, n_shards, block_rows, metric, dtype):
    x = np.clip(20 * blobs(900, n_dims=7) + 100, 0, 255).astype(dtype)
    monkeypatch.setattr("nomad_dask.planning.planner._MAX_BLOCK_BYTES", 4 * 7 * block_rows)
    make_shards(x, tmp_path / "w", n_shards=n_shards, metric=metric, cell_size=30)
    shards = load_shards(tmp_path / "w", n_shards)
    workspace = Workspace(tmp_path / "w")
    for s, shard in enumerate(shards):  # what the layout would leave
        workspace.save(checkpoint_file(1, s), np.zeros((len(shard["rows"]), 4), np.float32))
    cell_labels = collect_positions(workspace, n_shards, 1)[1]
    rows = np.concatenate([shard["rows"] for shard in shards])
    np.testing.assert_array_equal(np.sort(rows), np.arange(900))
    stored_dtype = {"f2": "f2", "f4": "f4", "f8": "f4", "u1": "u1", ">f4": "f4"}[dtype]
    first_cell = 0
    for shard in shards:
        vectors, offsets = shard["vectors"], shard["cell_offsets"]
        assert vectors.dtype == np.dtype(stored_dtype)
        np.testing.assert_array_equal(vectors, x[shard["rows"]].astype(stored_dtype))
        assert offsets[0] == 0
        assert offsets[-1] == len(vectors)
        assert (np.diff(offsets) > 0).all()
        assert len(shard["centroids"]) == len(offsets) - 1
        scaled = vectors.astype(np.float64)
        if metric == "cosine":
            scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
        means = np.array([scaled[a:b].mean(axis=0) for a, b in pairwise(offsets)])
        np.testing.assert_allclose(shard["centroids"], means, rtol=1e-5, atol=1e-4 if metric == "euclidean" else 1e-6)
        cells = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) + first_cell
        np.testing.assert_array_equal(cell_labels[shard["rows"]], cells)
        first_cell += len(offsets) - 1
        assert shard["start"].shape == (len(vectors), 2)
    assert not (tmp_path / "w" / "runs").exists()


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_block_size_does_not_change_the_shards(tmp_path, n_shards, metric):
    """A single block of a single shard is linked instead of merged, with the same result."""
    np.save(tmp_path / "x.npy", blobs(600))
    source = open_source(tmp_path / "x.npy")
    params = Params(n_shards=n_shards, metric=metric, cell_size=40)
    results = []
    with connect() as cluster:
        for block_rows in (600, 97):
            plan = replace(make_plan(source, params, 1, 8 << 30), block_rows=block_rows)
            workspace = Workspace(tmp_path / str(block_rows), {})
            run = RunContext(source, params, plan, workspace.path, "cpu")
            draw_sample(run, cluster, lambda job, done: None)
            cluster.run(fit_cells_stage, [(run,)])
            write_runs(run, cluster, lambda job, done: None)
            n_blocks = len(source.blocks(block_rows))
            cluster.run(merge_runs, [(run, s, n_blocks) for s in range(n_shards)])
            results.append(load_shards(workspace.path, n_shards))
    mean, axes, centroids, shifts = (
        np.load(workspace.path / f"cells/{name}.npy") for name in ("mean", "components", "centroids", "shifts")
    )
    assert np.abs(shifts).max() > 0.1
    for whole, merged in zip(*results, strict=True):
        for name in ("vectors", "rows", "cell_offsets"):
            np.testing.assert_array_equal(merged[name], whole[name])
        scaled = whole["vectors"].astype(np.float64)
        if metric == "cosine":
            scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
        coordinates = (scaled - mean) @ axes.T
        cells = cdist(coordinates, centroids).argmin(axis=1)
        for shard in (whole, merged):
            np.testing.assert_allclose(shard["start"], coordinates[:, :2] + shifts[cells], atol=1e-4)
            np.testing.assert_allclose(shard["centroids"], whole["centroids"], atol=1e-5)


def test_rows_of_a_cell_are_in_input_order(tmp_path):
    make_shards(blobs(900), tmp_path / "w", n_shards=2)
    for shard in load_shards(tmp_path / "w", 2):
        offsets = shard["cell_offsets"]
        for a, b in pairwise(offsets):
            assert (np.diff(shard["rows"][a:b]) > 0).all()


def test_cells_are_compact(tmp_path):
    """The mean squared distance of a row to its centroid is that of K-Means, not of random cells."""
    x = blobs(2000, n_dims=5, n_blobs=40)
    make_shards(x, tmp_path / "w", n_shards=2, n_cells=40)
    inertia = 0.0
    for shard in load_shards(tmp_path / "w", 2):
        centroids = np.repeat(shard["centroids"], np.diff(shard["cell_offsets"]), axis=0)
        inertia += float(((shard["vectors"] - centroids) ** 2).sum())
    assert inertia < 0.5 * float(((x - x.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("n_shards", [1, 2])
def test_tasks_can_be_repeated(tmp_path, n_shards):
    """A worker may be lost after it completes a task and before the scheduler learns of it."""
    np.save(tmp_path / "x.npy", blobs(600))
    source = open_source(tmp_path / "x.npy")
    settings: dict[str, Any] = {"n_shards": n_shards, "n_epochs": 1}
    params = Params(**settings)
    make_shards(tmp_path / "x.npy", tmp_path / "w", **settings)
    run = RunContext(source, params, make_plan(source, params, 1, 8 << 30), tmp_path / "w", "cpu")
    before = load_shards(tmp_path / "w", n_shards)
    with connect() as cluster:
        write_runs(run, cluster, lambda job, done: None)
        jobs = [(run, s, len(source.blocks(run.plan.block_rows))) for s in range(n_shards)]
        artifacts = cluster.run(merge_runs, jobs)
        assert cluster.run(merge_runs, jobs) == artifacts
    for shard, repeated in zip(before, load_shards(tmp_path / "w", n_shards), strict=True):
        for name in SHARD_FILES:
            np.testing.assert_array_equal(repeated[name], shard[name])


@pytest.mark.parametrize(
    ("counts", "max_rows", "groups"),
    [
        ([3, 3, 3], 100, [(0, 3)]),
        ([3, 3, 3], 6, [(0, 2), (2, 3)]),
        ([9, 1, 9], 5, [(0, 1), (1, 2), (2, 3)]),
        ([0, 0, 5, 0], 5, [(0, 4)]),
        ([0], 5, [(0, 1)]),
    ],
)
def test_cells_are_grouped_up_to_the_maximum(counts, max_rows, groups):
    assert group_cells(np.array(counts), max_rows) == groups
