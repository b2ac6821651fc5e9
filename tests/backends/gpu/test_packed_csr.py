"""Packing of the graph's edges, against a loop over rows."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.gpu import packed_csr
from nomad_dask.backends.gpu.device_shard import DeviceGraph
from nomad_dask.backends.gpu.packed_csr import pack, pack_values, upload_packed, upload_packed_values
from tests.helpers.gpu_card import near_graph
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
COUNTS = st.lists(st.integers(0, 7), max_size=30)


def random_csr(counts: list[int], n_targets: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(counts))
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return (
        indptr,
        rng.integers(0, n_targets, indptr[-1]).astype(np.int32),
        rng.uniform(0.1, 1, indptr[-1]).astype(np.float32),
    )


@given(COUNTS)
def test_every_row_keeps_its_edges_in_order(counts: list[int]) -> None:
    indptr, indices, weights = random_csr(counts)
    ptr, edges = pack(indptr, indices, weights)
    assert ptr.dtype == np.int64
    assert edges.dtype == np.uint32
    assert ptr[0] == 0
    assert edges.shape == (ptr[-1], 2)
    for i, count in enumerate(counts):
        assert ptr[i + 1] - ptr[i] == count + count % 2
        own = edges[ptr[i] : ptr[i] + count]
        np.testing.assert_array_equal(own[:, 0], indices[indptr[i] : indptr[i + 1]])
        np.testing.assert_array_equal(
            np.ascontiguousarray(own[:, 1]).view(np.float32), weights[indptr[i] : indptr[i + 1]]
        )


@given(COUNTS)
def test_padding_has_weight_zero_and_repeats_a_target_of_its_row(counts: list[int]) -> None:
    indptr, indices, weights = random_csr(counts)
    ptr, edges = pack(indptr, indices, weights)
    odd = [i for i, count in enumerate(counts) if count % 2]
    for i in odd:
        assert edges[ptr[i + 1] - 1].tolist() == [indices[indptr[i + 1] - 1], 0]
    assert np.count_nonzero(edges[:, 1] == 0) == len(odd)


@given(COUNTS)
def test_values_are_in_the_order_of_their_edges(counts: list[int]) -> None:
    indptr, indices, weights = random_csr(counts)
    _, edges = pack(indptr, indices, weights)
    packed = pack_values(indptr, weights)
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed.view(np.uint32), edges[:, 1])


@given(COUNTS, st.integers(1, 12))
def test_pieces_are_uploaded_to_their_places(counts: list[int], piece_edges: int) -> None:
    indptr, indices, weights = random_csr(counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_csr, "_PIECE_EDGES", piece_edges)
        ptr, edges = upload_packed(indptr, indices, lambda a, b: weights[a:b], RUNTIME)
        values = upload_packed_values(indptr, lambda a, b: weights[a:b], RUNTIME)
    expected = []
    for i, count in enumerate(counts):
        own = [(indices[e], weights[e]) for e in range(indptr[i], indptr[i + 1])]
        expected += own + ([(own[-1][0], 0)] if count % 2 else [])
        assert ptr[i + 1] == len(expected)
    assert edges[:, 0].tolist() == [target for target, _ in expected]
    assert np.ascontiguousarray(edges[:, 1]).view(np.float32).tolist() == [weight for _, weight in expected]
    assert values.tolist() == [weight for _, weight in expected]


def test_little_memory_is_taken_beside_the_graph_and_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_dask.backends.gpu.packed_csr._PIECE_EDGES", 1 << 14)
    graph = near_graph(40_000, n_neighbors=20)
    codes = np.arange(len(graph.indices)).astype(np.uint8)
    graph = replace(graph, weights=np.linspace(0.1, 1, 256, dtype=np.float32), weight_codes=codes)
    tracemalloc.start()
    uploaded = DeviceGraph.from_graph(graph, RUNTIME, with_conditional_p=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    on_device = [*uploaded.edges, *uploaded.cross_edges, uploaded.patch_offsets, uploaded.rows_by_patch]
    assert len(uploaded.edges.edges) > 1_000_000
    # The order of the rows by patch, the offsets and a piece.
    assert peak <= sum(array.nbytes for array in on_device) + 48 * graph.n_rows + (1 << 21)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_edges(rows: int) -> None:
    indptr = np.zeros(rows + 1, np.int64)
    ptr, edges = pack(indptr, np.empty(0, np.int32), np.empty(0, np.float32))
    np.testing.assert_array_equal(ptr, np.zeros(rows + 1))
    assert edges.shape == (0, 2)
    assert pack_values(indptr, np.empty(0, np.float32)).shape == (0,)
    assert upload_packed(indptr, np.empty(0, np.int32), lambda a, b: np.empty(b - a), RUNTIME).edges.shape == (0, 2)


def test_weights_of_other_layouts_are_taken_by_value() -> None:
    weights = np.arange(1, 7, dtype=np.float64)[::2]
    _, edges = pack(np.array([0, 3]), np.array([4, 5, 6], np.int32), weights)
    np.testing.assert_array_equal(np.ascontiguousarray(edges[:, 1]).view(np.float32), [1, 3, 5, 0])
