"""The graph on the device: its arrays as they were, and little memory besides."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.gpu.device_edges import DeviceEdges, upload_values
from nomad_dask.backends.gpu.device_shard import DeviceGraph
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.gpu_card import near_graph, with_codes
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()


@given(st.integers(0, 30), st.sampled_from([np.int32, np.float32, np.uint8]))
def test_values_are_followed_by_zeros_up_to_a_multiple_of_four(n: int, dtype: type) -> None:
    values = np.arange(1, n + 1)
    uploaded = upload_values(values, dtype, RUNTIME)
    assert uploaded.dtype == dtype
    assert uploaded[:n].tolist() == values.tolist()
    assert not uploaded[n:].any()
    assert len(uploaded) == min(m for m in range(n, n + 4) if m % 4 == 0)


@pytest.mark.parametrize("coded", [False, True])
def test_edges_are_those_of_the_graph_and_nothing_is_launched_or_waited_for(coded: bool) -> None:
    runtime = CountingRuntime()
    graph = near_graph(333)
    if coded:
        graph = with_codes(graph)
    edges = DeviceEdges.upload(graph.indptr, graph.indices, graph.weights, graph.weight_codes, runtime)
    n = len(graph.indices)
    np.testing.assert_array_equal(edges.ptr, graph.indptr)
    np.testing.assert_array_equal(edges.targets[:n], graph.indices)
    np.testing.assert_array_equal(edges.weights[: len(graph.weights)], graph.weights)
    if coded:
        assert edges.codes is not None
        np.testing.assert_array_equal(edges.codes[:n], graph.weight_codes)
    else:
        assert edges.codes is None
    assert not runtime.counts


def test_little_memory_is_taken_beside_that_of_the_device() -> None:
    graph = with_codes(near_graph(10_000, n_neighbors=20))
    tracemalloc.start()
    uploaded = DeviceGraph.from_graph(graph, RUNTIME, with_conditional_p=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert uploaded.cross_edges == (None, None, None)
    arrays = [*uploaded.edges, uploaded.patch_offsets, uploaded.rows_by_patch]
    n_bytes = sum(array.nbytes for array in arrays if array is not None)
    assert n_bytes >= 5 * len(graph.indices) > 1_500_000
    # The order of the rows by patch.
    assert peak <= n_bytes + 32 * graph.n_rows + (1 << 18)
