"""The start from the coarse map on the device; its positions are compared with brute force for all backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomad_dask.backends.data import Anchors
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.interpolation import PIECE_ROWS
from tests.backends.test_interpolation import Shard, brute_force, make_shard
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.host_runtime import HostRuntime

SIZES = [0, 200, 3, 64, 0, 65, 130, 70, 1, 190, 40, 0]
# Of memory in which neither the anchors nor more than the smallest block fit.
LITTLE = 1 << 10


@pytest.mark.parametrize("d", [1, 16, 37])
def test_blocks_and_anchors_read_again_and_again_change_no_bit(tmp_path, d):
    shard = make_shard(tmp_path, SIZES, 50, d=d, dtype="f2")
    done: list[int] = []
    whole = shard.interpolate(GpuBackend(HostRuntime()), done=done)
    assert done == [len(shard.x)]
    streamed = shard.interpolate(GpuBackend(HostRuntime(seed=1, free=LITTLE)), held=False, done=done)
    assert done[1:] == [256, 512, len(shard.x)]
    np.testing.assert_array_equal(streamed, whole)
    expected, certain = brute_force(shard)
    np.testing.assert_allclose(whole[certain], expected[certain], rtol=1e-5, atol=1e-4)


def test_every_axis_of_a_map_is_that_of_its_anchors(tmp_path):
    shard = make_shard(tmp_path, SIZES, 30)
    flat = shard.anchors.positions
    solid = replace(shard, anchors=Anchors(shard.anchors.rows, flat[:, [1, 0, 1]]))
    backend = GpuBackend(HostRuntime())
    np.testing.assert_array_equal(solid.interpolate(backend), shard.interpolate(backend)[:, [1, 0, 1]])


@pytest.mark.parametrize(("n_anchors", "n_rounds"), [(300, 1), (2, 2)])
def test_a_block_is_one_launch_and_the_host_waits_for_no_block(tmp_path, n_anchors, n_rounds):
    """Where few cells have anchors more are looked for, which takes a second round."""
    shard = make_shard(tmp_path, [40] * 20, n_anchors)
    runtime = CountingRuntime()
    shard.interpolate(GpuBackend(runtime), held=False)
    assert runtime.counts["place_rows"] == -(-len(shard.x) // 256)
    assert runtime.counts["waits"] == 2 * n_rounds + 1


def test_a_piece_of_a_cell_may_be_full(tmp_path):
    """The last row of a piece, and the first of the next one, have positions of their own."""
    n = 2 * PIECE_ROWS
    x = np.arange(n, dtype=np.float32)[:, None] ** 2
    places = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    shard = Shard(Path(tmp_path) / "x.npy", x, np.array([0, n]), x[:1], Anchors(np.arange(n), places))
    expected, certain = brute_force(shard)
    assert certain[PIECE_ROWS - 1 : PIECE_ROWS + 1].all()
    np.testing.assert_allclose(shard.interpolate(GpuBackend(HostRuntime()))[certain], expected[certain], rtol=1e-5)
