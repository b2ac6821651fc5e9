"""The kernel of the paper's repulsion, run on the host, against the CPU's kernel and sums in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.cpu.cell_mean_kernels import Draws, PatchMeans, RepulsionSums, SampledCells, cell_mean_kernel
from nomad_dask.backends.shard_layout import invert_sampled_cells
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.reference_layout import Case, draws, noise


@dataclass
class Shard:
    """The cells of a shard among the patches of all shards."""

    case: Case  # in float64; its means are those of all patches, and its own cells the first
    points: np.ndarray
    moments: np.ndarray
    counts: np.ndarray
    first_patch: int
    targets: np.ndarray
    shares: np.ndarray

    @property
    def dim(self) -> int:
        return self.points.shape[1]


def shard_of(
    dim: int, sizes: list[int], n_exact: int, n_negatives: int, first_patch: int, n_patches: int, epoch: int = 3
) -> Shard:
    """A shard of cells of these sizes; its patches begin at `first_patch` of at least `n_patches`."""
    rng = np.random.default_rng([dim, len(sizes), n_exact, n_negatives])
    n, n_cells = sum(sizes), len(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    targets = np.full((n_cells, n_exact), -1, np.int64)
    for c in range(n_cells):
        others = rng.permutation([t for t in range(n_cells) if t != c])[: n_exact - 1]
        targets[c, : len(others) + 1] = [c, *others]
    n_patches = max(n_patches, first_patch + n_cells)
    points = (rng.normal(0, 1.5, (n, dim)) + np.repeat(rng.normal(0, 4, (n_cells, dim)), sizes, axis=0)).astype(
        np.float32
    )
    means = rng.normal(0, 5, (n_patches, dim)).astype(np.float32)
    counts = rng.integers(0, 300, n_patches).astype(np.float32)
    # The reference has the own cells first.
    own_first = np.roll(np.arange(n_patches), -first_patch)
    case = Case(
        y=points.astype(np.float64), p=np.empty(0), offsets=offsets, sampled_cells=targets,
        means=means[own_first].astype(np.float64), counts=counts[own_first].astype(np.float64), n_total=n, n_noise=n,
        n_negatives=n_negatives, seed=(1 << 63) + 5, epoch=epoch,
    )  # fmt: skip
    return Shard(
        case=case,
        points=points,
        moments=np.hstack([means, rng.uniform(0, 9, (n_patches, 1))]).astype(np.float32),
        counts=counts,
        first_patch=first_patch,
        targets=targets,
        shares=rng.uniform(0.1, 2, n).astype(np.float32),
    )


def by_gpu(
    shard: Shard, shares: np.ndarray | None, n_items: int | None = None, seed: int = 0, wants_z: bool = True
) -> tuple:
    case, n = shard.case, len(shard.points)
    ptr, sources, slots = invert_sampled_cells(shard.targets)
    z, repulsion = np.full(n, np.nan, np.float32), np.full(shard.points.shape, np.nan, np.float32)
    HostRuntime(seed).launch(
        "repel_by_means", shard.dim, n if n_items is None else n_items, shard.points, np.int64(n), case.offsets,
        np.repeat(np.arange(len(shard.targets), dtype=np.int32), np.diff(case.offsets)), shard.moments, shard.counts,
        np.int64(len(shard.counts)), np.int64(shard.first_patch), shard.targets, np.int64(shard.targets.shape[1]),
        sources, slots, ptr, np.int64(case.n_negatives), np.uint64(case.seed), np.int64(case.epoch), shares,
        z if wants_z else None, repulsion,
    )  # fmt: skip
    return z, repulsion


def by_cpu(shard: Shard, shares: np.ndarray) -> tuple:
    case, n = shard.case, len(shard.points)
    z, repulsion = np.full(n, np.nan, np.float32), np.full(shard.points.shape, np.nan, np.float32)
    means = np.ascontiguousarray(shard.moments.T[:-1])
    cell_mean_kernel(shard.dim)(
        shard.points, shares, 0, len(shard.targets),
        SampledCells(case.offsets, shard.targets, *invert_sampled_cells(shard.targets)),
        PatchMeans(means, shard.counts, shard.first_patch), Draws(case.n_negatives, np.uint64(case.seed), case.epoch),
        RepulsionSums(z, repulsion),
    )  # fmt: skip
    return z, repulsion


def exactly(shard: Shard, shares: np.ndarray) -> tuple:
    """Sums in float64, with the draws computed with Python integers."""
    case, y = shard.case, shard.case.y
    push = np.zeros_like(y)
    for c, (start, stop) in enumerate(zip(case.offsets[:-1], case.offsets[1:], strict=True)):
        weights = case.counts.copy()
        if case.n_negatives:
            weights[case.sampled_cells[c][case.sampled_cells[c] >= 0]] = 0
        for i in range(start, stop):
            apart = y[i] - case.means
            q = 1 / (1 + (apart**2).sum(1))
            push[i] = shares[i] * ((weights * q**2)[:, None] * apart).sum(0)
    for i, m, weight in draws(case) if case.n_negatives else []:
        apart = y[i] - y[m]
        force = shares[i] * weight * apart / (1 + apart @ apart) ** 2
        push[i] += force
        push[m] -= force
    return noise(case, y, "means"), push


def assert_same(got: tuple, wanted: tuple) -> None:
    for there, here in zip(got, wanted, strict=True):
        # Terms of the sum are as large as its largest values.
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=3e-6 * max(1.0, float(np.abs(here).max(initial=0))))


SHARDS = {
    "own cell": ([40, 1, 25, 0, 60], 1, 4, 0, 5),
    "near cells": ([40, 1, 25, 0, 60, 2], 3, 4, 300, 700),  # over several tiles of means
    "more slots than cells": ([30, 9], 5, 2, 1, 3),
    "means only": ([40, 1, 25], 2, 0, 2, 90),
    "more than one block": ([150, 170, 3, 200], 2, 3, 31, 40),  # own patches on both sides of a multiple of 32
    "one row": ([1], 1, 4, 0, 1),
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SHARDS)
def test_z_and_repulsion(name: str, dim: int) -> None:
    shard = shard_of(dim, *SHARDS[name])
    got = by_gpu(shard, shard.shares)
    assert_same(got, by_cpu(shard, shard.shares))
    assert_same(got, exactly(shard, shard.shares))


def test_null_shares_mean_one() -> None:
    shard = shard_of(2, *SHARDS["near cells"])
    ones = np.ones(len(shard.points), np.float32)
    for a, b in zip(by_gpu(shard, None), by_gpu(shard, ones), strict=True):
        np.testing.assert_array_equal(a, b)


def test_z_is_optional() -> None:
    shard = shard_of(2, *SHARDS["own cell"])
    z, repulsion = by_gpu(shard, shard.shares, wants_z=False)
    assert np.isnan(z).all()
    np.testing.assert_array_equal(repulsion, by_gpu(shard, shard.shares)[1])


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 70),
    st.integers(0, 1000),
    st.sampled_from([2, 3]),
)
def test_any_cells(sizes: list[int], n_exact: int, n_negatives: int, first_patch: int, epoch: int, dim: int) -> None:
    shard = shard_of(dim, sizes, n_exact, n_negatives, first_patch, first_patch + len(sizes) + 20, epoch)
    got = by_gpu(shard, shard.shares)
    assert_same(got, by_cpu(shard, shard.shares))
    assert_same(got, exactly(shard, shard.shares))


@pytest.mark.parametrize("dim", [2, 3])
def test_results_do_not_depend_on_blocks_or_their_order(dim: int) -> None:
    shard = shard_of(dim, *SHARDS["more than one block"])
    first = by_gpu(shard, shard.shares)
    for n_items, seed in [(None, 0), (None, 1), (1, 0), (5000, 2)]:
        for a, b in zip(first, by_gpu(shard, shard.shares, n_items, seed), strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))
