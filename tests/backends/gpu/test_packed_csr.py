"""Packing of the graph's edges, against a loop over rows."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.gpu import packed_csr
from nomad_dask.backends.gpu.device_shard import DeviceGraph
from nomad_dask.backends.gpu.packed_csr import EdgePacker
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.gpu_card import near_graph
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
COUNTS = st.lists(st.integers(0, 70), max_size=30)


def random_csr(counts: list[int], n_targets: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(counts))
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return (
        indptr,
        rng.integers(0, n_targets, indptr[-1]).astype(np.int32),
        rng.uniform(0.1, 1, indptr[-1]).astype(np.float32),
    )


@settings(max_examples=50)
@given(COUNTS, st.sampled_from([1, 12, 1 << 20]), st.booleans(), st.integers(0, 2))
def test_rows_keep_their_edges_in_order_and_are_padded_to_even_numbers(
    counts: list[int], piece_edges: int, with_codes: bool, seed: int
) -> None:
    """Padding has weight 0 and repeats a target of its row."""
    indptr, indices, weights = random_csr(counts)
    levels, codes = weights, None
    if with_codes:
        levels = np.linspace(0.1, 1, 256, dtype=np.float32)
        codes = np.random.default_rng(0).integers(0, 256, len(indices)).astype(np.uint8)
        weights = levels[codes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_csr, "_PIECE_EDGES", piece_edges)
        packer = EdgePacker(indptr, HostRuntime(seed))
        ptr, edges = packer.edges(indices, levels, codes)
        values = packer.values(weights)
    assert (ptr.dtype, edges.dtype, values.dtype) == (np.int64, np.uint32, np.float32)
    expected: list[tuple[int, float]] = []
    for i, count in enumerate(counts):
        assert ptr[i] == len(expected)
        own = [(indices[e], weights[e]) for e in range(indptr[i], indptr[i + 1])]
        expected += own + ([(own[-1][0], 0)] if count % 2 else [])
    assert ptr[-1] == len(expected) == len(edges) == len(values)
    assert edges[:, 0].tolist() == [target for target, _ in expected]
    assert np.ascontiguousarray(edges[:, 1]).view(np.float32).tolist() == [weight for _, weight in expected]
    assert values.tolist() == [weight for _, weight in expected]


def test_little_memory_is_taken_beside_the_graph_and_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_dask.backends.gpu.packed_csr._PIECE_EDGES", 1 << 14)
    graph = near_graph(10_000, n_neighbors=20)
    codes = np.arange(len(graph.indices)).astype(np.uint8)
    graph = replace(graph, weights=np.linspace(0.1, 1, 256, dtype=np.float32), weight_codes=codes)
    tracemalloc.start()
    uploaded = DeviceGraph.from_graph(graph, RUNTIME, with_conditional_p=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    on_device = [*uploaded.edges, *uploaded.cross_edges, uploaded.patch_offsets, uploaded.rows_by_patch]
    assert len(uploaded.edges.edges) > 300_000
    # The offsets of both graphs as they were, the order of the rows by patch, and a piece.
    assert peak <= sum(array.nbytes for array in on_device) + 64 * graph.n_rows + (1 << 20)


@pytest.mark.parametrize("n_edges", [100, 1000])
def test_a_piece_is_one_launch_and_the_host_waits_once(monkeypatch: pytest.MonkeyPatch, n_edges: int) -> None:
    monkeypatch.setattr(packed_csr, "_PIECE_EDGES", 20)
    indptr, indices, weights = random_csr([10] * (n_edges // 10))
    runtime = CountingRuntime()
    EdgePacker(indptr, runtime).edges(indices, weights)
    assert runtime.counts == {"pack_edges": n_edges // 20, "waits": 1}


@pytest.mark.parametrize("rows", [0, 3])
def test_no_edges(rows: int) -> None:
    packer = EdgePacker(np.zeros(rows + 1, np.int64), RUNTIME)
    ptr, edges = packer.edges(np.empty(0, np.int32), np.empty(0, np.float32))
    np.testing.assert_array_equal(ptr, np.zeros(rows + 1))
    assert edges.shape == (0, 2)
    assert packer.values(np.empty(0, np.float32)).shape == (0,)


def test_weights_of_other_layouts_are_taken_by_value() -> None:
    weights = np.arange(1, 7, dtype=np.float64)[::2]
    packer = EdgePacker(np.array([0, 3]), RUNTIME)
    _, edges = packer.edges(np.array([4, 5, 6], np.int32), weights)
    np.testing.assert_array_equal(np.ascontiguousarray(edges[:, 1]).view(np.float32), [1, 3, 5, 0])
