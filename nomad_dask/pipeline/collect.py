"""The layout of all rows in input order, collected from the checkpoint of every shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask._version import __version__
from nomad_dask.layout.checkpoint import checkpoint_file
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.sources.base import Source
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.workspace import Workspace


@dataclass(frozen=True)
class Layout:
    """The layout of a run: finished, or of the last checkpoint of a run that was stopped.

    Attributes
    ----------
    positions : ndarray of float32 (n_rows, n_components)
        In input order.
    cell_labels : ndarray of int32 (n_rows,)
        K-Means cell of each row.
    n_epochs : int
        Epochs done.
    n_planned_epochs : int
        Epochs of a finished layout.
    diagnostics : dict
        Measurements of all stages, such as recall, imbalance and loss.
    metadata : dict
        Version, parameters, source and diagnostics, as a map stores them; for an unfinished layout also ``partial``
        with its epochs.
    seconds : dict
        Wall time of each stage in this process; empty for a layout read from a stopped run.
    """

    positions: np.ndarray
    cell_labels: np.ndarray
    n_epochs: int
    n_planned_epochs: int
    diagnostics: dict[str, Any]
    metadata: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def collect_positions(workspace: Workspace, n_shards: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Collect the positions of all rows from the checkpoint of an epoch.

    Returns
    -------
    positions : ndarray of float32 (n_rows, n_components)
        In input order.
    cell_labels : ndarray of int32 (n_rows,)
    """
    rows = [workspace.load(shard_file(s, "rows"), mmap=True) for s in range(n_shards)]
    n_rows = sum(map(len, rows))
    # A checkpoint has positions and velocities side by side.
    dim = workspace.load(checkpoint_file(epoch, 0), mmap=True).shape[1] // 2
    positions, cell_labels = np.empty((n_rows, dim), np.float32), np.empty(n_rows, np.int32)
    first_cell = 0
    for s in range(n_shards):
        sizes = np.diff(workspace.load(shard_file(s, "cell_offsets")))
        positions[rows[s]] = workspace.load(checkpoint_file(epoch, s), mmap=True)[:, :dim]
        cell_labels[rows[s]] = np.repeat(np.arange(first_cell, first_cell + len(sizes)), sizes)
        first_cell += len(sizes)
    return positions, cell_labels


def map_metadata(source: Source, params: Params, diagnostics: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a map: version, parameters, source and diagnostics of its run."""
    return {
        "version": __version__,
        "params": params.as_dict(),
        "source": {"name": source.name, "fingerprint": source.fingerprint(), "rows": source.n_rows},
        "diagnostics": diagnostics,
    }


def load_partial(path: Path, source: Source, params: Params) -> Layout | None:
    """Return the layout of the last checkpoint in a workspace, or None if there is no checkpoint yet."""
    workspace = Workspace(path)
    checkpoint = workspace.recorded_facts(CHECKPOINT)
    if checkpoint is None:
        return None
    plan = workspace.about["plan"]
    epoch, n_epochs = checkpoint["epoch"], make_schedule(params, source.n_rows).n_epochs
    positions, cell_labels = collect_positions(workspace, plan["n_shards"], epoch)
    diagnostics: dict[str, Any] = {"n_shards": plan["n_shards"]}
    for name, record in workspace.stages().items():
        if name != CHECKPOINT:
            diagnostics |= record.facts
    diagnostics |= {"epochs": epoch, "loss": checkpoint["loss"]}
    metadata = map_metadata(source, params, diagnostics) | {"partial": {"epochs": epoch, "of": n_epochs}}
    return Layout(positions, cell_labels, epoch, n_epochs, diagnostics, metadata)
