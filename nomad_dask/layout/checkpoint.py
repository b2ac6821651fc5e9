"""Checkpoints of the layout: positions and velocities of every shard after an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.workspace import Workspace


@dataclass(frozen=True)
class ShardCheckpoint:
    """A shard at a checkpoint.

    Attributes
    ----------
    epoch : int
        Epochs done.
    positions, velocity : ndarray of float32 (n_rows, dim)
    partition_sum : float or None
        The shard's part of Z; None before the first epoch.
    """

    epoch: int
    positions: np.ndarray
    velocity: np.ndarray
    partition_sum: float | None


def checkpoint_folder(epoch: int) -> str:
    """Return the folder of a checkpoint, relative to the workspace."""
    return f"layout/epoch-{epoch:06d}"


def checkpoint_file(epoch: int, shard: int) -> str:
    """Return the artifact of a shard in a checkpoint: positions and velocities (n_rows, 2·dim) float32."""
    return f"{checkpoint_folder(epoch)}/{shard:04d}.npy"


def load_checkpoint(run: RunContext, shard: int) -> ShardCheckpoint | None:
    """Read a shard at the last recorded checkpoint; None if there is no checkpoint."""
    facts = Workspace(run.workspace).recorded_facts(CHECKPOINT)
    if facts is None:
        return None
    epoch, dim = facts["epoch"], run.params.n_components
    state = np.load(run.file(checkpoint_file(epoch, shard)))
    return ShardCheckpoint(epoch, state[:, :dim], state[:, dim:], facts["z"][shard])
