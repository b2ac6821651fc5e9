"""The graph on the device: the edges, weights and codes of the CPU, and the dense matrix in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.data import EdgeRange
from nomad_dask.backends.gpu import symmetric_graph as module
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.backends.weight_codes import weight_levels
from nomad_dask.backends.weighted_lists import NO_ROW, WeightedLists
from tests.backends.cpu.test_symmetric_graph import dense_p, neighbors
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.host_runtime import HostRuntime


def whole(parts: list[EdgeRange]) -> list[np.ndarray]:
    """Return the edges of each row, the rows and the values of all parts."""
    values = [np.concatenate(arrays) for arrays in zip(*(part.values for part in parts), strict=True)]
    counts, indices = [np.diff(part.indptr) for part in parts], [part.indices for part in parts]
    return [np.concatenate(counts), np.concatenate(indices), *values]


def with_a_hub(n: int, k: int, seed: int = 0) -> np.ndarray:
    """Lists (n, k) with row 0 in all others, some of them short, and rows outside the graph."""
    rng = np.random.default_rng(seed)
    ids = np.array([rng.permutation(np.delete(np.arange(n + 3), i))[:k] for i in range(n)]).astype(np.uint32)
    for row in ids[1:]:
        if 0 not in row:
            row[rng.integers(k)] = 0
    ids[::5, k // 2 :] = NO_ROW
    return ids


def assert_equal_to_the_cpu(lists: WeightedLists, ranges: list[tuple[int, int]], runtime: HostRuntime) -> None:
    for levels in (None, weight_levels(lists)):
        got = whole(list(GpuBackend(runtime).symmetric_graph(lists, ranges, levels)))
        expected = whole(list(CpuBackend(1).symmetric_graph(lists, ranges, levels)))
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=30)
@given(ids=neighbors(), step=st.integers(1, 30), free=st.sampled_from([1 << 33, 1 << 11, 0]), seed=st.integers(0, 2))
def test_the_same_edges_as_the_cpu_in_any_ranges_and_memory(ids, step, free, seed):
    ranges = [(first, min(first + step, len(ids))) for first in range(0, len(ids), step)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_ENTRIES", 20)
        assert_equal_to_the_cpu(weigh_by_rank(ids, "log"), ranges, HostRuntime(seed, free))


@pytest.mark.parametrize("k", [1, 31, 33, 70])
def test_lists_longer_than_a_warp_and_a_row_in_all_of_them(k):
    ids = with_a_hub(80, k)
    assert_equal_to_the_cpu(weigh_by_rank(ids, "shifted-inverse"), [(0, 50), (50, 80)], HostRuntime())


def test_weights_are_p_and_its_transpose():
    ids = with_a_hub(60, 9)
    (part,) = GpuBackend(HostRuntime()).symmetric_graph(weigh_by_rank(ids, "log"), [(0, 60)], None)
    p = dense_p(ids.astype(np.int64), "log")[:, :60]
    a, directed = np.zeros((60, 60)), np.zeros((60, 60))
    rows = np.repeat(np.arange(60), np.diff(part.indptr))
    a[rows, part.indices], directed[rows, part.indices] = part.values
    np.testing.assert_allclose(a, p + p.T, rtol=1e-6)
    np.testing.assert_allclose(directed, p, rtol=1e-6)
    np.testing.assert_array_equal(a, a.T)
    assert len(part.indices) == ((p + p.T) > 0).sum()


@pytest.mark.parametrize("shape", [(3, 0), (1, 4)])
@pytest.mark.parametrize("with_codes", [True, False])
def test_without_neighbors_there_are_no_edges(shape, with_codes):
    lists = weigh_by_rank(np.full(shape, NO_ROW), "log")
    levels = weight_levels(lists) if with_codes else None
    (part,) = GpuBackend(HostRuntime()).symmetric_graph(lists, [(0, shape[0])], levels)
    np.testing.assert_array_equal(part.indptr, np.zeros(shape[0] + 1))
    assert [len(part.indices), *map(len, part.values)] == [0] * (2 if with_codes else 3)


@pytest.mark.parametrize("n", [40, 80])
def test_a_range_takes_four_launches_and_five_waits(n):
    """However many rows it has: for the number of keys, that of edges, and three arrays of the result."""
    lists, runtime = weigh_by_rank(with_a_hub(n, 6), "log"), CountingRuntime()
    list(GpuBackend(runtime).symmetric_graph(lists, [(0, n // 2), (n // 2, n)], weight_levels(lists)))
    kernels = ("count_into", "write_keys", "count_edges", "merge_edges")
    assert runtime.counts == {**dict.fromkeys(kernels, 2), "waits": 10}


def test_parts_are_as_small_as_keys_and_memory_ask():
    assert module._key_bits(60_000_000, 26) == module._KeyBits(5, 31)
    assert module._key_bits(1 << 31, 32).max_rows == 1 << 27
    lists = weigh_by_rank(with_a_hub(20, 4), "log")
    little = module._ENTRY_BYTES * 4 * 2 * 7  # for seven rows
    parts = list(GpuBackend(HostRuntime(free=little)).symmetric_graph(lists, [(0, 20)], None))
    assert [len(part.indptr) - 1 for part in parts] == [7, 7, 6]
