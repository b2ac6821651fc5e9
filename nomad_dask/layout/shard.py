"""One shard's state on the worker that lays it out, and its tasks: begin, advance, save.

The state is kept in the worker's memory between tasks. It is only a copy of what can be made again from
the last checkpoint and the summaries since, so a lost worker costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.base import Remote, ShardLayout
from nomad_dask.backends.choose import backend_of_worker
from nomad_dask.cluster import worker_threads
from nomad_dask.layout.schedule import Schedule
from nomad_dask.layout.start import along_axes, from_anchors, room
from nomad_dask.layout.summary import Charges, ShardSummary, Summary
from nomad_dask.neighbors.halo import all_cells, open_vectors, surroundings
from nomad_dask.neighbors.shard import load_graph, patch_counts
from nomad_dask.partition import cells as cells_module
from nomad_dask.partition.exchange import shard_file
from nomad_dask.plan import Run
from nomad_dask.workspace import Artifact, Workspace


@dataclass(frozen=True)
class Behind:
    """The worker does not have the state a task needs; the last checkpoint is of `epoch`."""

    shard: int
    epoch: int


@dataclass
class _Live:
    """A shard in the memory of this worker.

    `told` is what it returned last, of the epochs from `told_from` on, and `heard` the last summary of all
    shards with its epoch.
    """

    run_id: str
    shard: int
    layout: ShardLayout
    patch_counts: np.ndarray
    charges: Charges
    epoch: int
    told: ShardSummary | None = None
    told_from: int = -1
    heard: tuple[int, Summary] | None = None

    def remote(self, summary: Summary) -> Remote:
        """Return what a summary says of the other shards."""
        return Remote(
            summary.moments(),
            self.patch_counts,
            self.charges.points(summary),
            self.charges.weights,
            summary.z_of_others(self.shard),
            summary.z[self.shard],
        )


_live: dict[tuple[str, int], _Live] = {}


def begin(run: Run, run_id: str, shard: int) -> ShardSummary:
    """Load a shard at its last checkpoint and return its summary, Z not known."""
    live = _load(run, run_id, shard)
    return ShardSummary(shard, live.layout.patches(), None)


def advance(
    run: Run, run_id: str, shard: int, plan: Schedule, epoch: int, n_epochs: int, summary: Summary
) -> ShardSummary | Behind:
    """Lay out `n_epochs` epochs from `epoch` on, all with one summary, and return the shard's own.

    After the first of them the others are taken to move on as they did between the last two summaries.
    Asked again for epochs it has just done, it returns what it returned then.
    """
    live = _live.get((str(run.workspace), shard))
    if live is not None and live.run_id == run_id and (live.told_from, live.epoch) == (epoch, epoch + n_epochs):
        return live.told if live.told is not None else Behind(shard, epoch)
    if live is None or live.run_id != run_id or live.epoch != epoch:
        live = _load(run, run_id, shard)
        if live.epoch != epoch:
            return Behind(shard, live.epoch)
    remote, loss = live.remote(summary), None
    for e in range(epoch, epoch + n_epochs):
        if e > epoch and len(live.patch_counts) and live.heard is not None:
            before, earlier = live.heard
            remote = live.remote(summary.carried_on(earlier, (e - epoch) / (epoch - before)))
        outcome = live.layout.epoch(plan.at(e), remote)
        loss = outcome.loss if outcome.loss is not None else loss
    live.epoch, live.heard = epoch + n_epochs, (epoch, summary)
    live.told = ShardSummary(shard, live.layout.patches(), outcome.z, loss)
    live.told_from = epoch
    return live.told


def save(run: Run, run_id: str, shard: int, epoch: int) -> Artifact | Behind:
    """Write a checkpoint: positions and velocities (n, 2·dim) float32."""
    live = _live.get((str(run.workspace), shard))
    if live is None or live.run_id != run_id or live.epoch != epoch:
        live = _load(run, run_id, shard)
        if live.epoch != epoch:
            return Behind(shard, live.epoch)
    return Workspace(run.workspace).save(checkpoint_file(epoch, shard), np.hstack(live.layout.state()))


def release(workspace: str) -> None:
    """Forget all shards of a workspace."""
    for key in [k for k in _live if k[0] == workspace]:
        del _live[key]


def checkpoint_file(epoch: int, shard: int) -> str:
    """Return the name of a shard's checkpoint."""
    return f"layout/epoch-{epoch:06d}/{shard:04d}.npy"


def _load(run: Run, run_id: str, shard: int) -> _Live:
    """Take up a shard at the checkpoint the manifest names, or at its start."""
    dim = run.params.n_components
    facts = Workspace(run.workspace).noted("checkpoint")
    if facts is None:
        positions, epoch = _start(run, shard), 0
        velocity = np.zeros_like(positions)
    else:
        epoch = facts["epoch"]
        state = np.load(run.file(checkpoint_file(epoch, shard)))
        positions, velocity = state[:, :dim], state[:, dim:]
    with backend_of_worker(run.device, worker_threads(run.shard_threads)) as backend:
        layout = backend.layout(load_graph(run, shard), run.params, run.plan.n_rows)
    layout.load(positions, velocity)
    counts = patch_counts(run)
    live = _Live(run_id, shard, layout, counts.reshape(-1), Charges.of_others(shard, counts, dim), epoch)
    _live[str(run.workspace), shard] = live
    return live


def _start(run: Run, shard: int) -> np.ndarray:
    """Return where the rows of a shard start."""
    rng = np.random.default_rng([run.params.seed, 2, shard])
    rows = np.load(run.file(shard_file(shard, "rows")))
    if run.plan.coarse_rows:
        laid_out = np.load(run.file("coarse/rows.npy"))
        picture = np.load(run.file("coarse/positions.npy"))
        order = np.argsort(rows, kind="stable")
        here = np.isin(laid_out, rows, assume_unique=True)
        anchors = order[np.searchsorted(rows[order], laid_out[here])]
        places = np.argsort(anchors)
        cells = all_cells(run)
        return from_anchors(
            open_vectors(run, cells, shard, surroundings(cells, shard, with_halo=False)),
            np.load(run.file(shard_file(shard, "cell_offsets"))),
            np.load(run.file(shard_file(shard, "centroids"))),
            anchors[places],
            picture[here][places],
            room(picture, run.plan.n_rows),
            rng,
        )
    partition = cells_module.load(run)
    coordinates = np.load(run.file(shard_file(shard, "start")))
    return along_axes(coordinates, partition.axes.deviation, run.params.init_std, rng)
