"""Write the tables of the page on GPUs that say what fits where, from the formulas of the plan.

python docs/gpu_memory_tables.py
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nomad_dask.backends.memory_model import GPU_HOST_BYTES
from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.resources import ResourceEstimate

PAGE = Path(__file__).with_name("gpu.md")
COMMAND = "python docs/gpu_memory_tables.py"

CARDS = {16: "RTX A4000", 24: "L4, A10", 40: "A100", 48: "L40S, A40", 80: "A100, H100", 141: "H200"}
"""Memory of a card in GB, and examples."""
_KEPT_GB = 1  # for the driver, the context and other programs
N_GPUS = (1, 2, 8)
ROWS = (1_000_000, 10_000_000, 60_000_000)
DIMS = (64, 768)
GIGABYTE = 10**9
# More than any plan asks for.
_HOST_BYTES = 2000 * GIGABYTE
# No larger maps are counted.
_MAX_MILLIONS = 500


@dataclass(frozen=True)
class _Vectors:
    """What a plan needs of a source."""

    n_rows: int
    n_dims: int
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)


def needs(n_rows: int, n_dims: int, n_gpus: int) -> ResourceEstimate:
    """Return what a map with the default parameters needs where the host has memory for everything."""
    return estimate_resources(make_plan(_Vectors(n_rows, n_dims), Params(), n_gpus, _HOST_BYTES))  # type: ignore[arg-type]


def max_millions(card_gb: int, n_gpus: int) -> int:
    """Return how many million rows fit on the cards."""
    usable = (card_gb - _KEPT_GB) * GIGABYTE
    counts = range(1, _MAX_MILLIONS + 1)
    return bisect_right(counts, usable, key=lambda n: needs(n * 1_000_000, DIMS[-1], n_gpus).device_bytes)


def cards_table() -> str:
    lines = [
        "| memory of a card | such as | " + " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in N_GPUS) + " |",
        "|---:|---" + "|---:" * len(N_GPUS) + "|",
    ]
    for card_gb, examples in CARDS.items():
        counts = [max_millions(card_gb, n) for n in N_GPUS]
        cells = " | ".join(f"{'over ' * (n == _MAX_MILLIONS)}{n} million" for n in counts)
        lines.append(f"| {card_gb} GB | {examples} | {cells} |")
    return "\n".join(lines)


def rows_table() -> str:
    lines = [
        "| rows | dimensions | GPUs | memory of each GPU | host memory of each worker | disk |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for n_rows in ROWS:
        for n_dims in DIMS:
            for n_gpus in (1, 8):
                needed = needs(n_rows, n_dims, n_gpus)
                gpu_gb = math.ceil(10 * needed.device_bytes / GIGABYTE) / 10
                host_gb = math.ceil((needed.host_bytes + GPU_HOST_BYTES) / GIGABYTE)
                disk_gb = math.ceil(needed.disk_bytes / GIGABYTE)
                sizes = f"{n_rows // 1_000_000} million | {n_dims} | {n_gpus}"
                lines.append(f"| {sizes} | {gpu_gb:.1f} GB | {host_gb} GB | {disk_gb} GB |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """Return the text of the page with the tables as they are now."""
    for name, table in (("cards", cards_table()), ("rows", rows_table())):
        begin, end = f"<!-- {name}: {COMMAND} -->", f"<!-- end of {name} -->"
        page, found = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n\n{table}\n\n{end}", page, flags=re.S
        )
        if found != 1:
            raise ValueError(f"{PAGE.name} has {found} places for the table of {name}, not one")
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
