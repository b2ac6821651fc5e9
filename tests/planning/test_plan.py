"""The plan: sizes that cover all rows, refusals with numbers, and no start of what cannot fit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError, ResourceError
from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.planning.feasibility import check_resources
from nomad_dask.planning.host_memory import cache_bytes_for_batch, neighbors_host_bytes
from nomad_dask.planning.plan import Plan
from nomad_dask.planning.plan_table import format_plan
from nomad_dask.planning.planner import coarse_weight, make_plan, n_coarse_rows
from nomad_dask.planning.resources import ResourceEstimate
from nomad_dask.sources.base import Source
from nomad_dask.utils.formatting import format_bytes, format_seconds


class Shape(Source):
    """A source of any size, of which nothing is read."""

    name = "rows"

    def __init__(self, n_rows: int, n_dims: int, dtype: str = "f4") -> None:
        self.n_rows, self.n_dims, self.dtype = n_rows, n_dims, np.dtype(dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError


GIB = 1 << 30


def needs_of(n_rows: int, n_dims: int, n_workers: int, memory: int, **settings: int) -> ResourceEstimate:
    return estimate_resources(make_plan(Shape(n_rows, n_dims), Params(**settings), n_workers, memory))


@given(
    n=st.integers(1, 100_000_000),
    d=st.integers(1, 4096),
    dtype=st.sampled_from(["u1", "f2", "f4", "f8"]),
    n_workers=st.integers(1, 64),
    gib=st.integers(1, 128),
)
def test_every_source_has_a_plan(n, d, dtype, n_workers, gib):
    plan = make_plan(Shape(n, d, dtype), Params(), n_workers, gib * GIB)
    assert 1 <= plan.n_shards <= n_workers
    assert 1 <= plan.n_batches <= max(1, plan.shard_rows / 50_000)
    assert plan.n_shards * plan.n_batches <= plan.n_cells
    assert plan.n_shards <= plan.n_cells <= n
    assert 1 <= plan.block_rows <= n
    assert 1 <= plan.sample_rows <= n
    assert 1 <= plan.n_axes <= d
    assert plan.coarse_rows <= plan.sample_rows
    assert plan.block_rows == 1 or plan.block_rows * d * 4 <= 256 << 20
    assert plan.cache_bytes <= gib * GIB / 8 or neighbors_host_bytes(plan) <= gib * GIB
    needed = estimate_resources(plan)
    assert needed.disk_bytes >= n * d * np.dtype(dtype).itemsize
    assert plan.as_dict().keys() == Plan.__dataclass_fields__.keys()
    assert f"{n:,} × {d:,}" in format_plan(needed)
    assert needed.host_bytes == max(stage.host_bytes for stage in needed.stages)
    assert needed.disk_bytes <= sum(stage.disk_bytes for stage in needed.stages) + (1 << 20)
    assert {"coarse"} - {stage.name for stage in needed.stages} == (set() if plan.coarse_rows else {"coarse"})


def test_one_shard_a_worker_by_default():
    assert make_plan(Shape(1_000_000, 8), Params(), 7, GIB).n_shards == 7
    assert make_plan(Shape(1000, 8), Params(), 7, GIB).n_shards == 1, "not worth it"
    assert make_plan(Shape(1000, 8), Params(n_shards=3), 7, GIB).n_shards == 3


def test_cells_follow_the_rows():
    assert make_plan(Shape(1_000_000, 8), Params(), 1, GIB).n_cells == 4000
    assert make_plan(Shape(1_000_000, 8), Params(cell_size=1000), 1, GIB).n_cells == 1000
    assert make_plan(Shape(1_000_000, 8), Params(n_cells=77), 1, GIB).n_cells == 77


@pytest.mark.parametrize(
    ("n", "given_settings", "message"),
    [
        (1000, {"n_shards": 11}, "n_shards=11 for 1000 rows leaves fewer than 100 rows a shard: give at most 10."),
        (50, {"n_shards": 2}, "n_shards=2 for 50 rows leaves fewer than 100 rows a shard: give at most 1."),
        (10, {"n_cells": 11}, "n_cells=11 is more than the 10 rows: give at most 10."),
        (1000, {"n_cells": 3, "n_shards": 4}, "n_cells=3 is fewer than the 4 shards: give at least 4."),
    ],
)
def test_contradictions_are_refused_with_what_is_accepted(n, given_settings, message):
    with pytest.raises(InputError) as caught:
        make_plan(Shape(n, 8), Params(**given_settings), 1, GIB)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("n", "coarse", "rows"),
    [
        (200_000, "auto", 0), (200_001, "auto", 12_500), (1_600_000, "auto", 100_000), (1_600_000, "never", 0),
        (16_000, "always", 1000), (15_999, "always", 0),
    ],
)  # fmt: skip
def test_when_a_coarse_start_is_made(n, coarse, rows):
    assert n_coarse_rows(n, Params(coarse_init=coarse)) == rows
    assert n_coarse_rows(n, Params(coarse_init=coarse, init=f"given:{'0' * 32}")) == 0


def test_a_coarse_start_comes_in_gradually():
    weights = [coarse_weight(n, Params()) for n in (200_000, 200_001, 400_000, 800_000, 10**7)]
    assert weights == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)
    assert coarse_weight(20_000, Params(coarse_init="always")) == 1
    assert coarse_weight(10_000, Params(coarse_init="always")) == 0, "too few rows for a coarse map"
    assert coarse_weight(10**7, Params(coarse_init="never")) == 0


def test_what_does_not_fit_is_refused_with_the_numbers():
    needed = needs_of(50_000_000, 768, 2, 8 * GIB)
    check_resources(needed, needed.host_bytes, needed.disk_bytes)
    with pytest.raises(ResourceError) as caught:
        check_resources(needed, needed.host_bytes - 1, needed.disk_bytes)
    assert format_bytes(needed.host_bytes) in str(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(ResourceError, match="of disk") as caught:
        check_resources(needed, needed.host_bytes, 5 * GIB)
    assert "5.0 GiB are free" in str(caught.value)


def test_more_workers_need_less_memory_each():
    needs = [needs_of(100_000_000, 64, w, 256 * GIB, n_shards=w).host_bytes for w in (1, 2, 4, 8)]
    assert needs == sorted(needs, reverse=True)
    assert needs[3] < needs[0] / 4


@pytest.mark.parametrize(
    ("size", "message"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_as_people_say_them(size, message):
    assert format_bytes(size) == message


def test_little_memory_makes_more_batches_and_smaller_blocks_but_no_more_shards():
    plan = make_plan(Shape(3_000_000, 1024), Params(), 1, 2 * 10**9)
    check_resources(estimate_resources(plan), 2 * 10**9, 1 << 50)
    assert (plan.n_shards, plan.n_batches > 1) == (1, True)
    roomy = make_plan(Shape(3_000_000, 1024), Params(), 1, 64 * GIB)
    assert (roomy.n_shards, roomy.n_batches, plan.block_rows < roomy.block_rows) == (1, 1, True)
    with pytest.raises(ResourceError, match="on each of its workers"):
        check_resources(estimate_resources(roomy), 2 * 10**9, 1 << 50)


@pytest.mark.parametrize(("n", "d", "gib"), [(100_000_000, 32, 4), (100_000_000, 8, 3)])
def test_the_setting_that_is_told_makes_it_fit(n, d, gib):
    """By more shards, each on a worker of its own, as the layout needs most."""
    needed = needs_of(n, d, 1, gib * GIB, n_shards=1)
    with pytest.raises(ResourceError) as caught:
        check_resources(needed, gib * GIB, 1 << 50)
    message = re.search(r"give n_shards=(\d+) \(--n-shards \1\)", str(caught.value))
    assert message is not None
    n_shards = int(message[1])
    check_resources(needs_of(n, d, n_shards, gib * GIB, n_shards=n_shards), gib * GIB, 1 << 50)


def test_the_table_has_every_stage_and_the_time_of_those_that_were_estimated():
    needed = needs_of(1_000_000, 64, 1, 8 * GIB)
    text = format_plan(needed, {"layout": 7200.0, "sample": 3.0})
    for stage in ("sample", "coarse", "cells", "shards", "neighbors", "layout", "map"):
        assert f"\n{stage} " in text
    assert "2.0 h" in text
    assert "estimated time" not in format_plan(needed)


@pytest.mark.parametrize(("seconds", "message"), [(0.04, "0.0 s"), (119, "119.0 s"), (120, "2.0 min"), (9000, "2.5 h")])
def test_times_as_people_say_them(seconds, message):
    assert format_seconds(seconds) == message


def test_vectors_take_what_memory_there_is():
    plan = make_plan(Shape(10_000_000, 64, "f2"), Params(), 1, 24 * 10**9)
    assert (plan.n_shards, plan.n_batches) == (1, 1)
    assert plan.cache_bytes >= 10_000_000 * 64 * 4
    assert neighbors_host_bytes(plan) <= 24 * 10**9


@pytest.mark.parametrize(("n", "d", "gigabytes"), [(10_000_000, 64, 8), (60_000_000, 64, 20), (3_000_000, 1024, 4)])
def test_a_batch_is_held_whole_and_no_fewer_would_be(n, d, gigabytes):
    plan = make_plan(Shape(n, d, "f2"), Params(), 1, gigabytes * 10**9)
    assert plan.n_batches > 1
    assert 1.2 * n / plan.n_batches * d * 4 <= plan.cache_bytes
    assert neighbors_host_bytes(plan) <= gigabytes * 10**9
    fewer = replace(plan, n_batches=plan.n_batches - 1)
    assert neighbors_host_bytes(replace(fewer, cache_bytes=cache_bytes_for_batch(fewer))) > gigabytes * 10**9


def test_more_memory_never_makes_more_batches():
    counts = [make_plan(Shape(20_000_000, 256), Params(), 1, gib * GIB).n_batches for gib in (2, 4, 8, 16, 32, 64, 128)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
