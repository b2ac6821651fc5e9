"""The ranges of rows in which the graph of a shard is built."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.neighbors.graph_builder import graph_ranges


@pytest.mark.parametrize("n", [0, 1, 1 << 20, (1 << 20) + 1, 60_000_001])
def test_ranges_cover_all_rows_once_and_are_few(n):
    ranges = list(graph_ranges(n))
    assert [row for pair in ranges for row in pair] == [0, *np.repeat([b for _, b in ranges[:-1]], 2), n][
        : 2 * len(ranges)
    ]
    assert len(ranges) <= 16
