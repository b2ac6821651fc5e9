"""The tables of the page on GPUs are what the plan says now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nomad_dask.errors import ResourceError
from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.planning.feasibility import check_resources
from nomad_dask.planning.planner import make_plan
from tests.helpers.scripts import loaded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/gpu.md").read_text()
GB = 10**9


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    with loaded(ROOT / "docs/gpu_memory_tables.py") as module:
        yield module


def cells_of(name: str) -> list[list[str]]:
    """Return the cells of the rows of a table of the page."""
    table = PAGE.split(f"<!-- {name}: ")[1].split("<!-- end of")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_the_tables_of_now(tables):
    assert tables.with_tables(PAGE) == PAGE, f"run {tables.COMMAND}"


class Rows:
    """A source of so many rows."""

    def __init__(self, n_rows: int, n_dims: int) -> None:
        self.n_rows, self.n_dims, self.dtype = n_rows, n_dims, np.dtype(np.float32)


def is_accepted(n_rows: int, n_gpus: int, gpu_gb: float) -> bool:
    plan = make_plan(Rows(n_rows, 768), Params(), n_gpus, 2000 * GB)  # type: ignore[arg-type]
    try:
        check_resources(estimate_resources(plan), 2000 * GB, 10**18, round(gpu_gb * GB))
    except ResourceError:
        return False
    return True


def test_the_plan_accepts_as_many_rows_as_the_table_says_and_no_million_more():
    rows = cells_of("cards")
    assert len(rows) >= 5
    for card, _, *counts in rows:
        for n_gpus, count in zip((1, 2, 8), counts, strict=True):
            usable = int(card.split()[0]) - 1
            millions = int(re.findall(r"\d+", count)[0])
            assert is_accepted(millions * 1_000_000, n_gpus, usable)
            assert count.startswith("over") or not is_accepted((millions + 1) * 1_000_000, n_gpus, usable)


def test_maps_fit_into_the_memory_and_disk_of_the_table():
    for millions, n_dims, n_gpus, gpu, host, disk in cells_of("rows"):
        n_rows = int(millions.split()[0]) * 1_000_000
        gpu_gb, host_gb, disk_gb = (float(cell.split()[0]) for cell in (gpu, host, disk))
        plan = make_plan(Rows(n_rows, int(n_dims)), Params(), int(n_gpus), 2000 * GB)  # type: ignore[arg-type]
        resources = estimate_resources(plan)
        check_resources(resources, round(host_gb * GB), round(disk_gb * GB), round(gpu_gb * GB))
        with pytest.raises(ResourceError, match="GPU memory"):
            check_resources(resources, 2000 * GB, 10**18, round((gpu_gb - 0.2) * GB))
