"""A run that is resumed on a machine with other memory keeps the sizes on which its map depends, if they fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nomad_dask.params import Params
from nomad_dask.pipeline.setup import describe_run, open_workspace, resume_or_make_plan
from nomad_dask.planning.plan import Plan
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources.base import Source

GIB = 1 << 30


class Rows(Source):
    """Ten million rows, of which nothing is read."""

    name, n_rows, n_dims, dtype = "rows", 10_000_000, 64, np.dtype("f4")

    def read(self, start: int, stop: int) -> np.ndarray:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "the same rows"


def interrupted(folder: Path, memory: int) -> Plan:
    """Return the plan of a run that was started with some memory, and leave its workspace."""
    plan = make_plan(Rows(), Params(), 1, memory)
    open_workspace(folder, Rows(), Params(), plan, overwrite=False, about=describe_run(Rows(), plan, None, ()))
    return plan


def test_with_more_memory_the_sizes_stay(tmp_path):
    plan = interrupted(tmp_path / "w", 2 * GIB)
    fresh = make_plan(Rows(), Params(), 1, 64 * GIB)
    for name in ("block_rows", "n_batches", "max_mesh_nodes"):
        assert getattr(fresh, name) != getattr(plan, name), "else the test shows nothing"
        assert getattr(resume_or_make_plan(tmp_path / "w", Rows(), Params(), 1, 64 * GIB), name) == getattr(plan, name)


def test_with_less_memory_they_become_what_fits(tmp_path):
    interrupted(tmp_path / "w", 64 * GIB)
    assert resume_or_make_plan(tmp_path / "w", Rows(), Params(), 1, 2 * GIB) == make_plan(Rows(), Params(), 1, 2 * GIB)


@pytest.mark.parametrize("size", [True, "7", 0, -1, 2.5, None, 10**30])
def test_sizes_that_are_none_are_ignored(tmp_path, size):
    plan = make_plan(Rows(), Params(), 1, 8 * GIB)
    about = describe_run(Rows(), plan, None, ())
    about["plan"] |= {"block_rows": size, "n_batches": size, "max_mesh_nodes": size}
    open_workspace(tmp_path / "w", Rows(), Params(), plan, overwrite=False, about=about)
    assert resume_or_make_plan(tmp_path / "w", Rows(), Params(), 1, 8 * GIB) == plan
