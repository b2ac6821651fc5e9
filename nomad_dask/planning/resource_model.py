"""What each stage needs of memory and disk: formulas, compared with real fits in the tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A process with everything imported and its kernels loaded: measured 300 to 340 MiB.
BASE_BYTES = 360 << 20
# How far a shard may be above the mean size.
SHARD_OVER = 1.2
# Rows that the search of a shard looks through, those of other shards around it included, in its own.
HALO = 1.5
# Cells live among the leading axes: more tell them apart no better, and cost more (algorithm §2).
MAX_AXES = 64
# Rows from which the axes are made, at most.
_AXES_ROWS = 20_000
_PROJECT_ROWS = 1 << 15
# A block as it is read, as float32, sorted, and what readers of tables hold of it besides.
_BLOCK_COPIES = 3
# Distances of a few rows of the sample to all others, for shards.
_GAPS_BYTES = 128 << 20
# Neighbour lists, their weights, and the graph in both directions with its sorting: measured 32.
_LIST_BYTES_PER_NEIGHBOR = 44
# The same of a row while it is laid out: graph, positions, velocities, forces; measured 180 to 270 with 15 neighbours.
_LAYOUT_BYTES_PER_ROW = 30
_LAYOUT_BYTES_PER_NEIGHBOR = 16
# And without the edges, when these are read from the disk in every epoch.
_LAYOUT_BYTES_WITHOUT_EDGES = 80
# Summaries that a driver of several shards keeps until the next checkpoint, and the mesh of the field.
_LAYOUT_BYTES = 128 << 20
# Every shard's mesh lies over the whole map: charges, potential, transforms; one shard at a time.
_MESH_BYTES_PER_ROW = 45
# A mesh has at most 2²⁶ nodes.
_MESH_BYTES_AT_MOST = 30 << 26
_MAP_BYTES_PER_ROW = 24


@dataclass(frozen=True)
class ProblemSize:
    """The numbers that memory and disk follow from; see `Plan` and `Params`."""

    n_rows: int
    n_dims: int
    itemsize: int
    n_components: int
    n_neighbors: int
    n_shards: int
    n_workers: int
    n_cells: int
    block_rows: int
    sample_rows: int
    coarse_rows: int
    cache_bytes: int
    foreign: bool
    edges_in_memory: bool

    @property
    def shard_rows(self) -> int:
        """Rows of the largest shard."""
        return min(self.n_rows, math.ceil((SHARD_OVER if self.n_shards > 1 else 1) * self.n_rows / self.n_shards))


def neighbors_host_bytes(
    rows: int, n_dims: int, n_neighbors: int, cache_bytes: int, with_halo: bool, n_cells: int, n_rows: int
) -> int:
    """Return the most memory of a process that searches the neighbours of a shard of so many rows.

    Vectors and their screen are held when both fit into what may be resident, and read by cells when not; then
    come the lists of the neighbours and the graph.
    """
    searched = rows * (HALO if with_halo else 1)
    vectors = min(cache_bytes, 4 * n_dims * searched)
    screen = min(2 * cache_bytes, (4 * min(n_dims, 128) + 10 * n_neighbors + 150) * searched)
    lists = _LIST_BYTES_PER_NEIGHBOR * (n_neighbors + 8) * rows
    # All cells, once more while they are read; of each shard those around it, as they are and as screened. And
    # where each row of the map is.
    centroids = 4 * n_cells * n_dims * (5 if with_halo else 1)
    places = 4 * n_rows if with_halo else 0
    return int(BASE_BYTES + vectors + screen + lists + centroids + places)


def host_bytes_of_stages(sizes: ProblemSize) -> dict[str, int]:
    """Return the most memory in bytes of a process in each stage, the driver and the workers being one.

    - sample: copies of a block, 8 bytes a row to draw the sample.
    - coarse: what neighbours and layout of so many rows need.
    - cells: rows for the axes three times, or coordinates of the sample four times.
    - shards: copies of a block.
    - neighbors: `neighbors_host_bytes`.
    - layout: graph and state of all shards of a worker, the edges only when they are held.
    - map: positions, cells and row numbers.
    """
    s = sizes
    row = s.n_dims * (4 + s.itemsize)
    block = _BLOCK_COPIES * s.block_rows * row + s.block_rows * 8 * min(s.n_dims, MAX_AXES)
    axes = min(s.n_dims, MAX_AXES)
    held = min(s.n_rows, math.ceil(s.n_shards / s.n_workers) * s.shard_rows)
    needed = {"sample": block + 8 * s.n_rows}
    if s.coarse_rows:
        coarse = neighbors_host_bytes(s.coarse_rows, s.n_dims, s.n_neighbors, s.cache_bytes, False, 0, 0) - BASE_BYTES
        needed["coarse"] = max(coarse, min(block, 2 * s.coarse_rows * row), _cells_bytes(s, s.coarse_rows, axes))
    needed["cells"] = _cells_bytes(s, s.sample_rows, axes)
    needed["shards"] = block + 4 * s.n_cells * (s.n_dims + axes)
    across = s.n_shards > 1 and s.foreign
    needed["neighbors"] = -BASE_BYTES + neighbors_host_bytes(
        s.shard_rows, s.n_dims, s.n_neighbors, s.cache_bytes, across, s.n_cells, s.n_rows
    )
    per_row = _LAYOUT_BYTES_PER_ROW + _LAYOUT_BYTES_PER_NEIGHBOR * s.n_neighbors
    if not s.edges_in_memory:
        per_row = _LAYOUT_BYTES_WITHOUT_EDGES
    mesh = min(s.n_rows * _MESH_BYTES_PER_ROW, _MESH_BYTES_AT_MOST)
    others = mesh + _LAYOUT_BYTES if s.n_shards > 1 else 0
    needed["layout"] = held * per_row + others
    needed["map"] = s.n_rows * _MAP_BYTES_PER_ROW + s.shard_rows * 40
    return {name: int(size) + BASE_BYTES for name, size in needed.items()}


def _cells_bytes(s: ProblemSize, rows: int, axes: int) -> int:
    """Return what is held at once: rows for the axes, or coordinates and a block, or coordinates and their copies."""
    coordinates = 4 * axes * rows
    for_axes = 3 * 4 * s.n_dims * min(rows, _AXES_ROWS)
    block = (4 + s.itemsize) * s.n_dims * min(rows, _PROJECT_ROWS)
    return max(for_axes, 2 * coordinates + block, 4 * coordinates) + (_GAPS_BYTES if s.n_shards > 1 else 0)


def disk_bytes_of_stages(sizes: ProblemSize) -> dict[str, int]:
    """Return the most bytes that each stage writes.

    - sample: its vectors.
    - coarse: the part of the sample, and all of a run of so many rows; left is a position for each.
    - shards: all vectors sorted by block, and again by shard.
    - neighbors: the graph in both directions, and edges to other shards.
    - layout: two checkpoints.
    - map: the file.
    """
    s = sizes
    vectors = s.n_dims * s.itemsize
    small = 8 * (1 + s.n_components) + 4
    written = {"sample": s.sample_rows * (vectors + 8)}
    graph = 16 * s.n_neighbors + 24
    if s.coarse_rows:
        written["coarse"] = s.coarse_rows * (4 * vectors + small + graph)
    written["cells"] = 4 * s.n_cells * MAX_AXES * 2 + 4 * s.n_dims * MAX_AXES
    written["shards"] = 2 * s.n_rows * (vectors + small) + 4 * s.n_cells * s.n_dims * 2
    # Shards that search across leave their lists for each other, of two rounds at most.
    written["neighbors"] = s.n_rows * (2 * graph + 2 * 10 * (s.n_neighbors + 8) if s.n_shards > 1 else graph)
    written["layout"] = 2 * 8 * s.n_components * s.n_rows
    written["map"] = s.n_rows * (4 * s.n_components + 4)
    return {name: int(size) for name, size in written.items()}


def peak_disk_bytes(written: dict[str, int]) -> int:
    """Return the most disk in use at once, with what is given back as stages end, and a little for the manifest."""
    early = written["sample"] + written.get("coarse", 0) + written["cells"]
    # The sorted blocks go when the shards are there, the vectors when the neighbours are.
    late = written["shards"] // 2 + written["neighbors"] + written["layout"]
    return max(early, written["cells"] + max(written["shards"], late) + written.get("coarse", 0)) + (1 << 20)
