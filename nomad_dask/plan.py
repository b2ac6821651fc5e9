"""What a run will do and need, decided before anything runs. Small pure functions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from nomad_dask.errors import InputError, ResourceError
from nomad_dask.params import Params
from nomad_dask.sources.base import Source

# Cells live among the leading axes: more tell them apart no better, and cost more (algorithm §2).
MAX_AXES = 64
# A coarse start pays above this many rows (algorithm §4b).
COARSE_ABOVE = 200_000
COARSE_SHARE = 16
COARSE_MIN_ROWS = 1000
# Patches of near rows whose means stand for their rows in other shards; what an epoch exchanges depends on
# this number, not on the rows.
N_PATCHES = 65536
_SAMPLE_PER_CELL = 64
_SAMPLE_MIN, _SAMPLE_MAX = 20_000, 1_000_000
_BLOCK_BYTES = 256 << 20
_RESIDENT_BYTES = 1 << 30
# A process with everything imported and compiled.
_BASE_BYTES = 400 << 20
# Positions, velocities, forces and the graph of one row while it is laid out: measured 180 to 270.
_LAYOUT_BYTES_PER_ROW = 270
_EDGE_BYTES_PER_NEIGHBOR = 2 * 8
# Room that the box of a map takes, in map units^dim: at least, and by the row; twice what was measured.
_MAP_ROOM = {2: (50_000, 4), 3: (4_000_000, 100)}
# On a GPU, copies of a block and of the sample while they are worked on; and work areas of the libraries.
_DEVICE_BLOCKS, _DEVICE_SAMPLES = 3, 4
# Axes are made from fewer than this many rows of the sample; cells from all, along the axes.
_AXES_SAMPLE_ROWS = 20_000
_DEVICE_BASE_BYTES = 256 << 20


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes
    ----------
    n_rows, n_dims : int
        Of the source.
    n_shards, n_cells, n_axes : int
        Shards; K-Means cells aimed at; leading axes in which cells are made.
    block_rows : int
        Rows read at once by a worker.
    sample_rows : int
        Rows from which axes and cells are made.
    coarse_rows : int
        Rows laid out before all others; 0 for no coarse start.
    resident_bytes : int
        Memory for vectors in the neighbour search, on each worker; its tables take as much again.
    worker_bytes, disk_bytes : int
        Most memory a worker needs, and most disk the workspace takes.
    device_bytes : int
        Most GPU memory a worker needs, if it computes on one.
    """

    n_rows: int
    n_dims: int
    n_shards: int
    n_cells: int
    n_axes: int
    block_rows: int
    sample_rows: int
    coarse_rows: int
    resident_bytes: int
    worker_bytes: int
    disk_bytes: int
    device_bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)

    def table(self) -> str:
        """Return the plan as text for people."""
        rows = [
            ("rows × dimensions", f"{self.n_rows:,} × {self.n_dims:,}"),
            ("shards", f"{self.n_shards:,}"),
            ("cells", f"{self.n_cells:,} (about {self.n_rows // max(self.n_cells, 1):,} rows each)"),
            ("sample", f"{self.sample_rows:,} rows, {self.n_axes} axes"),
            ("coarse start", f"{self.coarse_rows:,} rows" if self.coarse_rows else "no"),
            ("rows read at once", f"{self.block_rows:,}"),
            ("memory of a worker", human_bytes(self.worker_bytes)),
            ("GPU memory of a worker", f"{human_bytes(self.device_bytes)} (with --device gpu)"),
            ("disk of the workspace", human_bytes(self.disk_bytes)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@dataclass(frozen=True)
class Run:
    """One run: what is mapped, how, and where its artifacts are. Every task gets it.

    Attributes
    ----------
    source : Source
    params : Params
    plan : Plan
    workspace : Path
    device : str
    """

    source: Source
    params: Params
    plan: Plan
    workspace: Path
    device: str

    def file(self, name: str) -> Path:
        """Return the path of an artifact."""
        return self.workspace / name


def human_bytes(size: float) -> str:
    """Return a size as people say it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def make_plan(source: Source, params: Params, n_workers: int, memory_bytes: int) -> Plan:
    """Decide the sizes of a run.

    Parameters
    ----------
    source : Source
    params : Params
    n_workers : int
        Workers of the cluster.
    memory_bytes : int
        Memory of the smallest of them.

    Raises
    ------
    InputError
        More shards than rows, or other numbers that contradict each other.
    """
    n, d = source.n_rows, source.n_dims
    n_shards = params.n_shards or max(1, min(n_workers, n // 5000))
    if n_shards > 1 and n_shards * 100 > n:
        raise InputError(
            f"n_shards={n_shards} for {n} rows leaves fewer than 100 rows a shard: give at most {max(1, n // 100)}."
        )
    n_cells = params.n_cells or min(n, max(round(n / params.cell_rows), 2 * n_shards))
    if n_cells > n:
        raise InputError(f"n_cells={n_cells} is more than the {n} rows: give at most {n}.")
    if n_cells < n_shards:
        raise InputError(f"n_cells={n_cells} is fewer than the {n_shards} shards: give at least {n_shards}.")
    coarse_rows = coarse_size(n, params.coarse)
    sample_rows = min(n, max(_SAMPLE_MIN, min(_SAMPLE_MAX, n_cells * _SAMPLE_PER_CELL), coarse_rows))
    row_bytes = 4 * d + source.dtype.itemsize * d
    block_rows = max(1, min(n, _BLOCK_BYTES // (4 * d)))
    resident = min(_RESIDENT_BYTES, memory_bytes // 8)
    shard_rows = math.ceil(1.1 * n / n_shards)
    layout_bytes = shard_rows * (_LAYOUT_BYTES_PER_ROW + _EDGE_BYTES_PER_NEIGHBOR * (params.n_neighbors - 15))
    stages = (2 * block_rows * row_bytes, sample_rows * 4 * (d + MAX_AXES), 2 * resident, layout_bytes)
    worker_bytes = max(stages) + _BASE_BYTES
    disk_bytes = n * d * source.dtype.itemsize * 2 + n * 250 + sample_rows * d * 4
    return Plan(
        n_rows=n,
        n_dims=d,
        n_shards=n_shards,
        n_cells=n_cells,
        n_axes=min(d, MAX_AXES),
        block_rows=block_rows,
        sample_rows=sample_rows,
        coarse_rows=coarse_rows,
        resident_bytes=resident,
        worker_bytes=worker_bytes,
        disk_bytes=disk_bytes,
        device_bytes=_device_bytes(source, params, n_shards, n_workers, shard_rows, block_rows, sample_rows),
    )


def _device_bytes(
    source: Source, params: Params, n_shards: int, n_workers: int, shard_rows: int, block_rows: int, sample_rows: int
) -> int:
    """Return the most GPU memory that a worker needs; the neighbour search makes do with what is left."""
    from nomad_dask.backends.gpu.field import MAX_NODES
    from nomad_dask.backends.gpu.layout import device_bytes

    dim = params.n_components
    some, by_row = _MAP_ROOM[dim]
    n_nodes = int(min(MAX_NODES, (some + by_row * source.n_rows) / params.mesh_spacing**dim))
    n_patches = N_PATCHES if n_shards > 1 else 1
    layout = device_bytes(shard_rows, 2 * params.n_neighbors * shard_rows, n_nodes, n_patches, dim)
    block = _DEVICE_BLOCKS * block_rows * source.n_dims * (4 + source.dtype.itemsize)
    sample = 4 * max(min(sample_rows, _AXES_SAMPLE_ROWS) * source.n_dims, sample_rows * min(source.n_dims, MAX_AXES))
    return max(math.ceil(n_shards / n_workers) * layout, block, _DEVICE_SAMPLES * sample) + _DEVICE_BASE_BYTES


def coarse_size(n_rows: int, coarse: str) -> int:
    """Return how many rows are laid out before all others; 0 for none."""
    rows = n_rows // COARSE_SHARE
    wanted = coarse == "always" or (coarse == "auto" and n_rows > COARSE_ABOVE)
    return rows if wanted and rows >= COARSE_MIN_ROWS else 0


def check_fits(plan: Plan, memory_bytes: int, disk_free: int, gpu_bytes: int | None = None) -> None:
    """Refuse a plan that does not fit.

    Parameters
    ----------
    plan : Plan
    memory_bytes : int
        Memory of the smallest worker.
    disk_free : int
        Where the workspace is.
    gpu_bytes : int, optional
        Free GPU memory of the worker that has the least; None when it computes on CPUs.

    Raises
    ------
    ResourceError
        With the numbers, and the setting that lowers them.
    """
    if plan.worker_bytes > memory_bytes:
        raise ResourceError(
            f"The plan needs {human_bytes(plan.worker_bytes)} on each of its workers, the smallest has "
            f"{human_bytes(memory_bytes)}: use more shards on more workers, or fewer neighbours."
        )
    if gpu_bytes is not None and plan.device_bytes > gpu_bytes:
        missing = plan.device_bytes - gpu_bytes
        raise ResourceError(
            f"The plan needs {human_bytes(plan.device_bytes)} of GPU memory on each of its workers, the one with the "
            f"least has {human_bytes(gpu_bytes)} free: {missing:,} bytes are missing. Use more workers with a GPU "
            "each and as many shards (n_shards), fewer neighbours (n_neighbors), free what other processes hold "
            "(nvidia-smi), or give device='cpu'."
        )
    if plan.disk_bytes > disk_free:
        raise ResourceError(
            f"The workspace needs {human_bytes(plan.disk_bytes)} of disk, {human_bytes(disk_free)} are free: "
            "give a workspace on a larger disk."
        )
