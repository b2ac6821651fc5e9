"""The plan of a run: every size that is decided before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nomad_dask.backends.data import TAIL_STRIDE
from nomad_dask.backends.mesh import MAX_MESH_NODES

# Patches of nearby rows, whose means represent their rows in other shards. What an epoch exchanges depends on their
# number, not on that of the rows, and so does how exactly edges between shards attract: of 117,000 texts in 16 shards,
# NP@10 is 0.985 of one shard's where every row is a patch, 0.96 with two rows a patch, and 0.82 with seven.
N_PATCHES = 1 << 18
# Rows search for neighbors in the cells of their search batch, and in as many cells nearest to each of these.
HALO_CELLS = 128
# A shard is not divided into search batches smaller than this, whose halos would be several times as large.
MIN_BATCH_ROWS = 50_000
# A shard may be this much larger than the mean.
SHARD_IMBALANCE = 1.2
# The graph of a shard is built in ranges of rows: as many as this, or fewer with this many rows.
N_RANGES, MIN_RANGE_ROWS = 16, 1 << 20
# Cells are made along the leading axes: more axes separate them no better, and cost more (algorithm §2).
MAX_AXES = 64
# Rows whose given neighbors are read at once.
GIVEN_CHUNK_ROWS = 1 << 16
# An edge whose weight is a code: its index, and the code.
CODED_EDGE_BYTES = 5


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes
    ----------
    n_rows, n_dims : int
        Shape of the source.
    source_itemsize, stored_itemsize : int
        Bytes of an element in the source, and in the workspace.
    n_components, n_neighbors, n_tail_neighbors : int
        See `Params`.
    cross_shard_attraction : bool
        See `Params`.
    mesh_spacing : float
        See `Params`.
    n_workers : int
        Workers of the cluster.
    n_shards, n_cells, n_axes : int
        Shards; K-Means cells to aim for; leading axes along which cells are made.
    n_batches : int
        Search batches of each shard: groups of nearby cells that the neighbor search takes one after another.
    block_rows : int
        Rows that a worker reads at once.
    sample_rows : int
        Rows from which axes and cells are made.
    coarse_rows : int
        Rows that are laid out before all others; 0 for no coarse map.
    cache_bytes : int
        Memory for the vectors of a search batch and its halo; their filter and tables take up to twice as much again.
    region_rows : int
        Rows that a search batch and its halo may have together in memory; 0 if they are read from disk, and any number.
    max_mesh_nodes : int
        Nodes that the mesh of the field may have in host memory; more would need a wider spacing.
    edges_in_memory : bool
        Whether a worker holds the edges of its shards in memory during the layout, or reads them in every epoch.
    has_weight_codes : bool
        Whether the weights of edges are codes of one byte.
    has_given_init : bool
        Whether the initial positions are given.
    given_tail : int
        Entries of the tail that lists of given neighbors are long enough for.
    has_given_neighbors : bool
        Whether the neighbors are given.
    copies_source : bool
        Whether the vectors are copied to the workspace, as workers cannot open the source.
    keeps_lists : bool
        Whether the neighbor lists are kept with their distances, for a model.
    """

    n_rows: int
    n_dims: int
    source_itemsize: int
    stored_itemsize: int
    n_components: int
    n_neighbors: int
    n_tail_neighbors: int
    cross_shard_attraction: bool
    mesh_spacing: float
    n_workers: int
    n_shards: int
    n_cells: int
    n_axes: int
    block_rows: int
    sample_rows: int
    coarse_rows: int
    cache_bytes: int
    edges_in_memory: bool
    n_batches: int = 1
    region_rows: int = 0
    max_mesh_nodes: int = MAX_MESH_NODES
    has_weight_codes: bool = True
    has_given_init: bool = False
    given_tail: int = 0
    has_given_neighbors: bool = False
    copies_source: bool = False
    keeps_lists: bool = False

    @property
    def shard_rows(self) -> int:
        """Rows of the largest shard."""
        imbalance = SHARD_IMBALANCE if self.n_shards > 1 else 1
        return min(self.n_rows, math.ceil(imbalance * self.n_rows / self.n_shards))

    @property
    def batch_rows(self) -> int:
        """Rows of the largest search batch."""
        imbalance = SHARD_IMBALANCE if self.n_batches > 1 else 1
        return min(self.shard_rows, math.ceil(imbalance * self.shard_rows / self.n_batches))

    @property
    def shards_per_worker(self) -> int:
        """Shards of the worker that has most."""
        return math.ceil(self.n_shards / self.n_workers)

    @property
    def n_linked_rows(self) -> int:
        """Rows that attract each row: neighbors and those in the tail of its list."""
        return self.n_neighbors + self.n_tail_neighbors

    @property
    def n_given(self) -> int:
        """Neighbors that are kept of each list that is given."""
        return self.n_neighbors + TAIL_STRIDE * self.given_tail if self.has_given_neighbors else 0

    @property
    def searches_across_shards(self) -> bool:
        """Whether the rows of a shard have neighbors in others."""
        return self.n_shards > 1 and self.cross_shard_attraction

    @property
    def has_halos(self) -> bool:
        """Whether the rows of a search batch have neighbors in others."""
        return self.n_batches > 1 or self.searches_across_shards

    def as_dict(self) -> dict[str, Any]:
        """Return the sizes by name."""
        return asdict(self)
