"""The map out of a workspace: positions and cells of all rows in input order, of a layout that ended or was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask._version import __version__
from nomad_dask.layout.schedule import schedule
from nomad_dask.layout.worker import checkpoint_file
from nomad_dask.params import Params
from nomad_dask.partition.shuffle import shard_file
from nomad_dask.pipeline.stages import ORDER
from nomad_dask.sources.base import Source
from nomad_dask.storage.workspace import Workspace


@dataclass(frozen=True)
class PartialResult:
    """The layout of a run that was stopped, at its last checkpoint.

    Attributes
    ----------
    positions : ndarray of float32 (n, n_components)
        In input order.
    cells : ndarray of int32 (n,)
    epoch, n_epochs : int
        Epochs done, and in all.
    diagnostics : dict
        What was measured until then.
    metadata : dict
        As of a finished map, with ``partial`` beside it: the epochs done, and in all.
    """

    positions: np.ndarray
    cells: np.ndarray
    epoch: int
    n_epochs: int
    diagnostics: dict[str, Any]
    metadata: dict[str, Any]


def collect_positions(workspace: Workspace, n_shards: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (n, n_components) float32 and cells (n,) int32 after some epochs, in input order."""
    rows = [workspace.load(shard_file(s, "rows"), mmap=True) for s in range(n_shards)]
    n = sum(map(len, rows))
    dim = workspace.load(checkpoint_file(epoch, 0), mmap=True).shape[1] // 2
    positions, cells = np.empty((n, dim), np.float32), np.empty(n, np.int32)
    first = 0
    for s in range(n_shards):
        sizes = np.diff(workspace.load(shard_file(s, "cell_offsets")))
        # Velocities are beside the positions.
        positions[rows[s]] = workspace.load(checkpoint_file(epoch, s), mmap=True)[:, :dim]
        cells[rows[s]] = np.repeat(np.arange(first, first + len(sizes)), sizes)
        first += len(sizes)
    return positions, cells


def map_metadata(source: Source, params: Params, diagnostics: dict[str, Any]) -> dict[str, Any]:
    """Return what a map tells of its run."""
    return {
        "version": __version__,
        "params": params.as_dict(),
        "source": {"name": source.name, "fingerprint": source.fingerprint(), "rows": source.n_rows},
        "diagnostics": diagnostics,
    }


def load_partial(path: Path, source: Source, params: Params) -> PartialResult | None:
    """Return the layout at the last checkpoint of a workspace; None when there is none yet."""
    workspace = Workspace(path)
    checkpoint = workspace.recorded_facts("checkpoint")
    if checkpoint is None:
        return None
    plan = workspace.about["plan"]
    epoch, n_epochs = checkpoint["epoch"], schedule(params, source.n_rows, plan["coarse_rows"] > 0).n_epochs
    positions, cells = collect_positions(workspace, plan["n_shards"], epoch)
    facts: dict[str, Any] = {"n_shards": plan["n_shards"]}
    for stage in ORDER:
        facts |= workspace.recorded_facts(stage) or {}
    facts |= {"epochs": epoch, "loss": checkpoint["loss"]}
    metadata = map_metadata(source, params, facts) | {"partial": {"epochs": epoch, "of": n_epochs}}
    return PartialResult(positions, cells, epoch, n_epochs, facts, metadata)
