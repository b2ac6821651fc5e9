"""The contract with backends that lay out all shards jointly: as exactly as one shard, on several workers.

In a joint layout every worker holds the positions of all rows, and adds the charges of its rows to those of the
others. So a row is repelled by every other row, and attracted by its neighbors, wherever these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.data import EpochResult, ShardGraph, StepParams
from nomad_dask.params import Params


class CommunicatorError(Exception):
    """Workers cannot communicate, or no longer."""


class Communicator(Protocol):
    """Collective operations of a group of workers on arrays of their devices.

    All members call the same operations in the same order. An operation may return before it is done; later work on
    the device waits for it. If a member is lost, the others wait without end, until `abort`.
    """

    def sum_integers(self, values: Any, total: Any) -> None:
        """Write the sum of the members' `values`, int64, to `total`, int64 of the same shape.

        Sums of integers do not depend on their order, and so not on the number of members.
        """

    def share_parts(self, array: Any, parts: RowParts) -> None:
        """Make each part of a C-contiguous array that of its owner."""

    def check(self) -> None:
        """Raise a `CommunicatorError` if an operation has failed; may be called from another thread."""

    def abort(self) -> None:
        """End all operations, whose results are then undefined; may be called from another thread."""


class SingleMember:
    """The `Communicator` of one worker, which has all shards."""

    def sum_integers(self, values: Any, total: Any) -> None:
        """Copy `values` to `total`."""
        total[...] = values

    def share_parts(self, array: Any, parts: RowParts) -> None:
        """Do nothing: all parts are here."""

    def check(self) -> None:
        """Do nothing: no operation can fail."""

    def abort(self) -> None:
        """Do nothing: no operation waits."""


@dataclass(frozen=True)
class RowParts:
    """Consecutive parts of an array, and which members of a group own them.

    Attributes
    ----------
    offsets : ndarray of int64 (n_parts + 1,)
        Part p has the rows ``offsets[p]`` to ``offsets[p + 1]``.
    owners : tuple of int
        Rank of the owner of each part.
    n_members : int
        Members of the group.
    """

    offsets: np.ndarray
    owners: tuple[int, ...]
    n_members: int

    @property
    def n_rows(self) -> int:
        """Rows of all parts."""
        return int(self.offsets[-1])

    def of_single_rows(self) -> RowParts:
        """Return parts of one row each with the same owners."""
        return RowParts(np.arange(len(self.owners) + 1), self.owners, self.n_members)


@dataclass(frozen=True)
class CrossRows:
    """The rows of other shards that attract the rows of a shard, as CSR.

    Attributes
    ----------
    indptr : ndarray of int64 (n_rows + 1,)
    rows : ndarray of uint32 (n_edges,)
        Numbers of the attracting rows through all shards.
    weight_codes : ndarray of uint8 (n_edges,)
        The weight of an edge is that of its code in the `ShardGraph`.
    """

    indptr: np.ndarray
    rows: np.ndarray
    weight_codes: np.ndarray


@dataclass(frozen=True)
class JointShard:
    """A shard of a joint layout.

    Attributes
    ----------
    number : int
        Among all shards.
    graph : ShardGraph
        Without patches, and without edges to other shards.
    cross_rows : CrossRows
    """

    number: int
    graph: ShardGraph
    cross_rows: CrossRows


class ShardPoints(Protocol):
    """Positions and velocities of one shard."""

    def copy_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities on the host."""

    def copy_positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of a slice of the rows on the host."""


class JointLayout(Protocol):
    """The shards of one worker in a joint layout.

    Attributes
    ----------
    exchanged_bytes : int
        Bytes that all workers together received in the last epoch.
    """

    exchanged_bytes: int

    @property
    def shards(self) -> Sequence[ShardPoints]:
        """Positions and velocities of each shard."""

    def load(self, shard: int, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Set positions and velocities of one of `shards`, both float32 (n_rows, dim)."""

    def start_epoch(self, step: StepParams) -> None:
        """Start to move every row once, in step with the other workers."""

    def finish_epoch(self, step: StepParams) -> list[EpochResult]:
        """Wait until the epoch is done, and return the results of `shards`."""


class JointLayouts(Protocol):
    """Joint layouts of a backend."""

    def communicator_id(self) -> Any:
        """Return what the members of a new group must agree on; called by the member of rank 0.

        Raises
        ------
        CommunicatorError
        """

    def open_communicator(self, communicator_id: Any, rank: int, n_members: int) -> Communicator:
        """Join a new group; waits, without end, for all other members.

        Raises
        ------
        CommunicatorError
        """

    def create_layout(
        self, shards: Sequence[JointShard], parts: RowParts, params: Params, communicator: Communicator
    ) -> JointLayout:
        """Return the joint layout of some shards.

        Parameters
        ----------
        shards : sequence of JointShard
        parts : RowParts
            The rows of all shards of the map, and on which workers these are.
        params : Params
        communicator : Communicator
        """
