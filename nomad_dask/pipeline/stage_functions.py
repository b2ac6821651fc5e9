"""The work of each stage: tasks on the cluster, and the artifacts and measurements that they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nomad_dask.callbacks.events import prefix_coarse_events
from nomad_dask.cluster import assign_shards
from nomad_dask.layout.optimize import optimize_layout
from nomad_dask.neighbors import nn_descent_rounds
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.cross_shard_edges import build_cross_shard_edges
from nomad_dask.neighbors.given_recall import measure_given_lists
from nomad_dask.neighbors.graph_builder import build_graph
from nomad_dask.neighbors.patches import build_patches
from nomad_dask.neighbors.search_batches import LISTS_FOLDER, divide_cells, load_search_batches
from nomad_dask.neighbors.search_state import SearchState
from nomad_dask.params import Params
from nomad_dask.partition.checksums import with_checksums
from nomad_dask.partition.clustering import fit_cells_stage
from nomad_dask.partition.given_lists import save_given_lists
from nomad_dask.partition.parents import fit_parents
from nomad_dask.partition.rescaling import rescaled
from nomad_dask.partition.sampling import copy_rows, draw_sample
from nomad_dask.partition.shard_files import RUNS_FOLDER
from nomad_dask.partition.shuffle_merge import merge_runs
from nomad_dask.partition.shuffle_write import write_runs
from nomad_dask.partition.start_positions import GIVEN_POSITIONS
from nomad_dask.pipeline.graph_components import graph_components
from nomad_dask.pipeline.setup import open_workspace
from nomad_dask.pipeline.stage import StageContext, StageResult
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources.npy import NpySource

Progress = Callable[[int, int], None]

_COARSE_VECTORS = "coarse/vectors.npy"
_COARSE_WORKSPACE = "coarse/run"
_COARSE_ARTIFACTS = ["coarse/rows.npy", "coarse/positions.npy"]
# The coarse map is small, so better settings cost little.
_COARSE_PRESET = {"fast": "default", "default": "best", "best": "best"}


def run_sample(context: StageContext, on_progress: Progress) -> StageResult:
    """Check every row of the source, and write a random sample, given initial positions and given neighbors."""
    given = context.given_neighbors
    of_given = [] if given is None else save_given_lists(context.run, given.read, given.width, given.name)
    names, facts = draw_sample(context.run, context.cluster, on_progress)
    artifacts = context.describe([*names, *of_given])
    if context.given_positions is not None:
        artifacts.append(context.workspace.save(GIVEN_POSITIONS, context.given_positions))
    return StageResult(artifacts, facts)


def run_coarse(context: StageContext, on_progress: Progress) -> StageResult:
    """Lay out a random part of the sample as one shard, by the same stages in a workspace of its own."""
    run, workspace = context.run, context.workspace
    rows = workspace.load("sample/rows.npy")
    rng = np.random.default_rng([run.params.random_state, 3])
    part = np.sort(rng.choice(len(rows), run.plan.coarse_rows, replace=False))
    workspace.save("coarse/rows.npy", rows[part])
    copy_rows(run.file("sample/vectors.npy"), run.file(_COARSE_VECTORS), part)
    source, params = NpySource(run.file(_COARSE_VECTORS)), _coarse_params(run.params)
    plan = make_plan(source, params, 1, context.memory_bytes)
    path = run.file(_COARSE_WORKSPACE)
    coarse = replace(
        context,
        run=replace(run, source=source, params=params, plan=plan, workspace=path),
        workspace=open_workspace(path, source, params, plan, overwrite=True),
        emit=prefix_coarse_events(context.emit),
        snapshot_request=None,
        given_neighbors=None,
    )
    workspace.save("coarse/positions.npy", context.run_stages(coarse).positions)
    workspace.remove(_COARSE_WORKSPACE)
    run.file(_COARSE_VECTORS).unlink()
    return StageResult(context.describe(_COARSE_ARTIFACTS), {})


def _coarse_params(params: Params) -> Params:
    return params.replace(
        n_shards=1,
        n_cells=None,
        n_epochs=None,
        learning_rate=None,
        momentum=None,
        preset=_COARSE_PRESET[params.preset],
        coarse_init="auto",
        precomputed_knn=None,
    )


def run_cells(context: StageContext, on_progress: Progress) -> StageResult:
    """Fit axes and cells to the sample, and assign cells to shards."""
    run = context.run.without_vectors()
    ((names, facts),) = context.cluster.run(fit_cells_stage, [(run, fit_parents(run, context.cluster))])
    return StageResult(context.describe(names), facts)


def run_shards(context: StageContext, on_progress: Progress) -> StageResult:
    """Write every row, rescaled like the sample, to the shard that owns its cell."""
    run = rescaled(with_checksums(context.run))
    context = replace(context, run=run)
    write_runs(run, context.cluster, on_progress)
    n_blocks = len(run.source.blocks(run.plan.block_rows))
    artifacts = context.cluster.run(merge_runs, [(*job, n_blocks) for job in context.jobs()])
    context.workspace.remove(RUNS_FOLDER)
    cells = load_cell_catalog(run)
    sizes = cells.shard_rows()
    facts = {
        "n_cells": len(cells.counts),
        "largest_cell": int(cells.counts.max()),
        "imbalance": float(sizes.max() / sizes.mean()),
    }
    return StageResult([a for of_shard in artifacts for a in of_shard], facts)


def run_neighbors(context: StageContext, on_progress: Progress) -> StageResult:
    """Find the neighbors of every row, and build the graph of each shard and its edges to other shards."""
    cluster, jobs = context.cluster, context.jobs()
    if context.run.params.has_given_neighbors:
        recall = measure_given_lists(context.run.without_vectors(), cluster)
        graphs = cluster.run(build_graph, [(*job, [SearchState(recall, 0)]) for job in jobs], on_progress)
    elif context.run.plan.has_halos:
        states = _search_in_batches(context, on_progress)
        graphs = cluster.run(build_graph, [(*job, states) for job in jobs])
    else:
        graphs = cluster.run(build_graph, jobs, on_progress)
    patches = cluster.run(build_patches, jobs)
    cross_edges = cluster.run(build_cross_shard_edges, jobs)
    context.workspace.remove(LISTS_FOLDER)
    components = graph_components(context.run.without_vectors(), cluster)
    artifacts = [a for of_shard in (*(made for made, _ in graphs), *patches, *cross_edges) for a in of_shard]
    return StageResult(artifacts, _combine_facts([facts for _, facts in graphs]) | components)


def _combine_facts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the measurements of the whole graph from those of its shards."""
    rows = [f["rows"] for f in facts]
    averaged = ("recall", "n_probes", "rounds", "foreign_share")
    means = {name: float(np.average([f[name] for f in facts], weights=rows)) for name in averaged}
    return means | {"edges": sum(f["edges"] for f in facts)}


def _search_in_batches(context: StageContext, on_progress: Progress) -> list[SearchState]:
    """Search within all batches, then refine the lists across them while some gain, each batch on one worker."""
    run, cluster = context.run.without_vectors(), context.cluster
    cluster.run(divide_cells, [(run,)])
    divided = load_search_batches(run)
    batches = range(divided.n_batches)
    workers = assign_shards(run.plan.n_shards, cluster.workers())
    addresses = [workers[divided.shard(batch)] for batch in batches]
    try:
        jobs = [(run, batch) for batch in batches]
        states = cluster.run(nn_descent_rounds.probe_batch, jobs, on_progress, addresses)
        while any(state.needs_round for state in states):
            snapshot = tuple(states)
            unfinished = [b for b in batches if snapshot[b].needs_round]
            rounds = [(run, b, snapshot) for b in unfinished]
            refined = cluster.run(
                nn_descent_rounds.nn_descent_round, rounds, workers=[addresses[b] for b in unfinished]
            )
            for batch, state in zip(unfinished, refined, strict=True):
                states[batch] = state
    finally:
        cluster.broadcast_best_effort(nn_descent_rounds.unload_batches, str(run.workspace))
    return states


def run_layout(context: StageContext, on_progress: Progress) -> StageResult:
    """Lay out all shards; the last checkpoint holds the positions."""
    facts = optimize_layout(
        context.run.without_vectors(),
        context.cluster,
        context.workspace,
        context.emit,
        on_progress,
        context.snapshot_request,
    )
    return StageResult([], facts)
