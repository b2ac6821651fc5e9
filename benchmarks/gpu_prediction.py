"""Bytes and operations of a run on one GPU, counted from the code, and the seconds that they take at stated rates.

    python -m benchmarks.gpu_prediction > benchmarks/results/gpu-predicted-DATE.md

Nothing is measured: it says what would bound each stage, and which work is not on the GPU. Run it again after the code
of a stage has changed, and change the counts here with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from benchmarks.gpu_kernels import EDGES, moved_bytes
from nomad_dask.backends.data import ListLengths
from nomad_dask.backends.gpu.batched_gemm import GROUP_ROWS
from nomad_dask.backends.gpu.interpolation import PIECE_ROWS
from nomad_dask.backends.gpu.lloyd import N_ITERATIONS, N_TRIALS, PICKS_PER_CENTER
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, ROWS_PER_PARENT
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.stage_functions import _coarse_params as coarse_params
from nomad_dask.planning.host_memory import AXES_SAMPLE_ROWS
from nomad_dask.planning.plan import CODED_EDGE_BYTES, MIN_RANGE_ROWS, N_RANGES, Plan
from nomad_dask.planning.planner import make_plan

RUNS = ((60_000_000, 64, "float32"), (60_000_000, 768, "float16"))
HOST_BYTES = 1 << 40

# Per second. Copies on a card reach about nine tenths of the data sheet's bandwidth; products of matrices about half of
# its rate for half precision and two thirds of that for single precision.
CARDS = {
    "H200": {"GPU memory": 0.9 * 4.8e12, "float16": 0.5 * 990e12, "float32": 0.67 * 67e12},
    "H100": {"GPU memory": 0.9 * 3.35e12, "float16": 0.5 * 990e12, "float32": 0.67 * 67e12},
}
"""Assumed rates of a card: bytes, and operations of products in half and in single precision."""
HOST = {"link": 25e9, "disk": 3e9, "copies": 8e9, "NumPy": 2e9, "all threads": 40e9}
"""Assumed rates of the host in bytes: over PCIe, from or to disk, copied by one thread, read and written by NumPy in
one thread, and by compiled code on 16 cores."""

# Products in `pca.fit_axes`: two an iteration, and one at the end; and the columns beside the axes.
_AXES_PRODUCTS, _AXES_OVERSAMPLING = 9, 8
# Cells that a row probes: what the search on the CPU chose for 10 million x 64 and 2.9 million x 1,024 rows.
_N_PROBES = {64: 30, 768: 44}
# Rows in cells around a row among which its anchors are searched: 8 cells, of which one row in 16 is an anchor.
_ANCHOR_CELLS, _ROWS_PER_ANCHOR = 8, 16
# A radix sort of keys of 8 bytes counts digits of 8 bits once, and then reads and writes all keys for each of them.
_SORTED_KEY_BYTES = 8 + 8 * 2 * 8
# Nodes of the mesh per row of a large map: 4 square units, half a unit apart.
_NODES_PER_ROW = 16


@dataclass(frozen=True)
class Work:
    """Work of one stage that is done at once.

    Attributes
    ----------
    stage, what : str
    amounts : dict
        Bytes or operations, by the name of their rate. What takes longest counts.
    """

    stage: str
    what: str
    amounts: dict[str, float]

    def seconds(self, card: str) -> float:
        rates = CARDS[card] | HOST
        return max(amount / rates[name] for name, amount in self.amounts.items())

    @property
    def is_on_gpu(self) -> bool:
        return not self.amounts.keys() & HOST.keys()


@dataclass(frozen=True)
class _Vectors:
    n_rows: int
    n_dims: int
    dtype: np.dtype


def plan_of(n_rows: int, n_dims: int, dtype: str, params: Params) -> Plan:
    """Return the plan for one worker with enough memory."""
    return make_plan(_Vectors(n_rows, n_dims, np.dtype(dtype)), params, 1, HOST_BYTES)  # type: ignore[arg-type]


def works(n_rows: int, n_dims: int, dtype: str, params: Params) -> Iterator[Work]:
    """Yield the work of all stages, in order; that of a coarse map is itself that of all stages."""
    plan = plan_of(n_rows, n_dims, dtype, params)
    yield from sample_work(plan)
    if plan.coarse_rows:
        for work in works(plan.coarse_rows, n_dims, dtype, coarse_params(params)):
            yield replace(work, stage="coarse", what=f"{work.stage}: {work.what}")
    yield from cells_work(plan)
    yield from shards_work(plan)
    yield from neighbors_work(plan, probes_of(n_dims))
    yield from layout_work(plan, params)
    yield Work("map", "positions in the order of the input, written", {"NumPy": 3 * 24.0 * plan.n_rows})


def _vectors(plan: Plan) -> float:
    return float(plan.n_rows) * plan.n_dims * plan.source_itemsize


def reading_work(stage: str, n_bytes: float, is_read_ahead: bool) -> Iterator[Work]:
    """Yield a read of files and their copies to the device through pinned memory; threads may read ahead."""
    yield Work(stage, "read files", {"disk": n_bytes})
    n_copies = 1 if is_read_ahead else 2
    yield Work(stage, "copies to pinned memory", {"copies": 2 * n_copies * n_bytes})
    yield Work(stage, "upload", {"link": n_bytes})


def sample_work(plan: Plan) -> Iterator[Work]:
    vectors, drawn = _vectors(plan), float(plan.sample_rows) * plan.n_dims * plan.source_itemsize
    yield from reading_work("sample", vectors, is_read_ahead=False)
    # `check_finite` reads rows, writes a byte per number and reads that; `value_range` reads rows twice.
    yield Work("sample", "finite, range", {"GPU memory": 3 * vectors + 2 * vectors / plan.source_itemsize})
    yield Work("sample", "write the sample", {"disk": drawn})


def cells_work(plan: Plan) -> Iterator[Work]:
    n, d, axes = float(plan.sample_rows), plan.n_dims, plan.n_axes
    columns = min(d, axes + _AXES_OVERSAMPLING)
    yield Work("cells", "axes", {"float32": _AXES_PRODUCTS * 2.0 * min(n, AXES_SAMPLE_ROWS) * d * columns})
    yield from reading_work("cells", n * d * plan.source_itemsize, is_read_ahead=False)
    yield Work("cells", "coordinates of the sample", {"GPU memory": 4 * n * (d + axes), "float32": 2 * n * d * axes})
    yield from kmeans_work(n, plan.n_cells, axes)


def kmeans_work(n: float, n_cells: int, axes: int) -> Iterator[Work]:
    parents = math.sqrt(n_cells)
    children, of_parents = n_cells / parents, ROWS_PER_PARENT * parents
    # Seeds of the parents are left out: there are few, but they are one group, for which one block of threads works.
    picks = min(n, PICKS_PER_CENTER * n_cells)
    yield Work("cells", "seeds of K-Means", {
        "float32": 3 * N_TRIALS * picks * children * axes, "GPU memory": 4 * picks * children * axes,
    })  # fmt: skip
    # The last pass finds the labels; rows are compared with all parents once.
    compared = (N_ITERATIONS + 1) * (of_parents * parents + n * children) + n * parents
    # Rows are read for distances and for sums, to which each value is added in 8 bytes.
    moved = (N_ITERATIONS + 1) * 4 + N_ITERATIONS * (4 + 8)
    yield Work("cells", f"{N_ITERATIONS} iterations of two levels of K-Means", {
        "float32": 2 * compared * axes, "GPU memory": moved * (n + of_parents) * axes,
    })  # fmt: skip


def shards_work(plan: Plan) -> Iterator[Work]:
    n, d, axes, vectors = float(plan.n_rows), plan.n_dims, plan.n_axes, _vectors(plan)
    parents = math.sqrt(plan.n_cells)
    compared = parents + PARENTS_TRIED * plan.n_cells / parents
    yield from reading_work("shards", vectors, is_read_ahead=False)
    yield Work("shards", "coordinates", {"GPU memory": vectors + 4 * n * axes, "float32": 2 * n * d * axes})
    yield Work("shards", "cells of rows", {"GPU memory": 2 * 4 * n * axes, "float32": 2 * n * axes * compared})
    yield Work("shards", "sort blocks on the GPU", {"GPU memory": 2 * vectors})
    yield Work("shards", "download", {"link": vectors})
    yield Work("shards", "copies from pinned memory, and into files", {"copies": 4 * vectors})
    yield Work("shards", "write runs", {"disk": vectors})
    # `merge_runs`: threads read, join, gather in order, and sum by cell; one writes, and reads it for the checksum.
    yield Work("shards", "merge runs", {"all threads": (2 + 2 + 2 + 1) * vectors})
    yield Work("shards", "merged rows into files", {"copies": 2 * vectors})
    yield Work("shards", "checksums", {"NumPy": vectors})
    yield Work("shards", "read runs, write shards", {"disk": 2 * vectors})


def probes_of(n_dims: int) -> int:
    """Return the number of cells that a row is assumed to probe."""
    return _N_PROBES[min(_N_PROBES, key=lambda dims: abs(dims - n_dims))]


def neighbors_work(plan: Plan, n_probes: int) -> Iterator[Work]:
    n, d = float(plan.n_rows), plan.n_dims
    lengths = ListLengths(plan.n_neighbors, plan.n_tail_neighbors)
    cell_rows = n / plan.n_cells
    pairs = n * n_probes
    compared = pairs * cell_rows
    n_candidates = lengths.n_ranks + 5
    groups = math.ceil(n / GROUP_ROWS)
    near_cells = n_probes * GROUP_ROWS / cell_rows  # of a group, if no two of its cells shared any
    yield from reading_work("neighbors", _vectors(plan), is_read_ahead=True)
    yield Work(
        "neighbors", "cells near each cell", {"float16": 2.0 * plan.n_cells**2 * d, "GPU memory": 8.0 * plan.n_cells**2}
    )
    yield Work("neighbors", "cells to probe", {"float32": 2 * n * near_cells * d, "GPU memory": 2 * 4 * n * near_cells})
    yield Work("neighbors", "rows relative to their cells", {
        "GPU memory": groups * near_cells * cell_rows * (4 + 2) * d + pairs * (4 + 2) * d,
    })  # fmt: skip
    yield Work("neighbors", "products", {"float16": 2 * compared * d, "GPU memory": 4 * compared + 2 * pairs * d})
    yield Work("neighbors", "scan of the products", {"GPU memory": 4 * compared})
    yield Work("neighbors", "exact distances of candidates", {
        "GPU memory": 4 * n * n_candidates * d, "float32": 3 * n * n_candidates * d,
    })  # fmt: skip
    listed = 4 * n * (lengths.n_ranks + plan.n_neighbors)
    yield Work("neighbors", "download lists", {"link": listed})
    yield Work("neighbors", "lists in the order of rows, joined with their tails", {"NumPy": 4 * listed})
    yield from graph_work(plan)


def graph_work(plan: Plan) -> Iterator[Work]:
    n, keys = float(plan.n_rows), float(plan.n_rows) * plan.n_linked_rows
    lists, coded_edges = 4 * keys, CODED_EDGE_BYTES * 2 * keys
    n_ranges = math.ceil(n / max(MIN_RANGE_ROWS, n / N_RANGES))
    yield Work("neighbors", "copies of lists to pinned memory", {"copies": 4 * lists})
    yield Work("neighbors", "upload lists", {"link": lists})
    # For each range all lists are read to count its keys, and again to write them, with offsets between. `count_edges`
    # and `merge_edges` read lists, keys and offsets, and the totals of sources.
    a_key = 8 + _SORTED_KEY_BYTES + 2 * 8 + 4
    yield Work("neighbors", "symmetric graph", {
        "GPU memory": n_ranges * (2 * lists + 24 * n) + a_key * keys + 2 * lists + 2 * 16 * n + coded_edges,
    })  # fmt: skip
    yield Work("neighbors", "download edges", {"link": coded_edges})
    yield Work("neighbors", "copies of edges from pinned memory, and into files", {"copies": 4 * coded_edges})
    yield Work("neighbors", "write lists and graph", {"disk": lists + coded_edges})
    yield Work("neighbors", "checksums", {"NumPy": coded_edges})


def layout_work(plan: Plan, params: Params) -> Iterator[Work]:
    n, d = float(plan.n_rows), plan.n_dims
    edges = 2 * n * plan.n_linked_rows
    coded_edges = CODED_EDGE_BYTES * edges
    if plan.coarse_rows:
        anchors = _ANCHOR_CELLS * n / plan.n_cells / _ROWS_PER_ANCHOR
        yield from reading_work("layout", _vectors(plan), is_read_ahead=True)
        # A difference, its square and a sum of each number; anchors are read once for each piece of a cell.
        yield Work("layout", "start from the coarse map", {
            "float32": 3 * n * anchors * d, "GPU memory": 4 * n * d * (1 + anchors / PIECE_ROWS),
        })  # fmt: skip
    yield Work("layout", "read the graph", {"disk": coded_edges})
    yield Work("layout", "copies of edges to pinned memory", {"copies": 4 * coded_edges})
    yield Work("layout", "upload edges", {"link": coded_edges})
    n_nodes = int(min(MAX_MESH_NODES, _NODES_PER_ROW * n))
    schedule = make_schedule(params, plan.n_rows)
    moved = {name: float(size) for name, size in moved_bytes(plan.n_rows, n_nodes).items()}
    moved["step"] += coded_edges - CODED_EDGE_BYTES * EDGES * n  # `moved_bytes` has fewer edges per row
    for name in ("deposit", "field", "step", "watch"):
        yield Work("layout", f"{schedule.n_epochs} epochs: {name}", {"GPU memory": schedule.n_epochs * moved[name]})


def page() -> str:
    """Return the predictions as Markdown."""
    lines = [
        "# Predicted seconds of a run on one GPU",
        "",
        f"{date.today().isoformat()}. **Computed, not measured.** Bytes and operations are counted from the code, each "
        "array once for each pass over it. Seconds are those at the assumed rates below, one work after another. "
        "Launches, waits, cache misses and Python are left out, so runs take longer. "
        "`python -m benchmarks.gpu_prediction`.",
        "",
        "| assumed rate | H200 | H100 |",
        "|---|---:|---:|",
        *(
            f"| {name}, {'operations' if name.startswith('float') else 'bytes'} | "
            + " | ".join(f"{_short(rates[name])}/s" for rates in CARDS.values())
            + " |"
            for name in CARDS["H200"]
        ),
        *(f"| {name} (host), bytes | {_short(rate)}/s | {_short(rate)}/s |" for name, rate in HOST.items()),
        "",
        "A `.npy` file read without KvikIO; default parameters; 30 probed cells at 64 dimensions and 44 at 768, which "
        "is what the search on the CPU chose for similar data; twice as many edges as listed neighbors, of which the "
        "real graph has fewer. Vectors that do not fit on the card are counted as uploaded once.",
    ]
    for n_rows, n_dims, dtype in RUNS:
        counted = list(works(n_rows, n_dims, dtype, Params()))
        lines += ["", f"## {n_rows:,} rows of {n_dims} dimensions, {dtype}", ""]
        lines += [*_totals(counted), "", *_details(counted)]
    return "\n".join([*lines, ""])


def _totals(counted: list[Work]) -> list[str]:
    lines = [
        "| stage | s on H200 | of which not on the GPU | s on H100 | of which not on the GPU |",
        "|---|---:|---:|---:|---:|",
    ]
    names = [*dict.fromkeys(work.stage for work in counted), "all"]
    for name in names:
        chosen = [work for work in counted if name in (work.stage, "all")]
        cells = [
            f"{sum(work.seconds(card) for work in chosen if keep or not work.is_on_gpu):.1f}"
            for card in CARDS
            for keep in (True, False)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _details(counted: list[Work]) -> list[str]:
    lines = ["| stage | work | amounts | s on H200 | s on H100 |", "|---|---|---|---:|---:|"]
    for work in counted:
        if max(work.seconds(card) for card in CARDS) < 0.05:
            continue
        amounts = ", ".join(f"{name} {_short(amount)}" for name, amount in work.amounts.items())
        cells = " | ".join(f"{work.seconds(card):.1f}" for card in CARDS)
        lines.append(f"| {work.stage} | {work.what} | {amounts} | {cells} |")
    return lines


def _short(number: float) -> str:
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}"
    return f"{number:.3g}"


if __name__ == "__main__":
    print(page(), end="")
