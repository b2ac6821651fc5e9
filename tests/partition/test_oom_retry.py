"""A block too large for the GPU's memory is processed in halves, with the same result; run on the CPU backend."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.errors import DeviceMemoryError, ResourceError
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.partition.shard_files import SHARD_FILES, shard_file
from tests.helpers.runs import blobs, make_map


def process_up_to(limit: int, tried: list[int]):
    def process(start: int, stop: int) -> tuple[np.ndarray]:
        tried.append(stop - start)
        if stop - start > limit:
            raise DeviceMemoryError("no memory")
        return (np.arange(start, stop),)

    return process


def test_a_block_is_halved_once_and_in_order():
    tried: list[int] = []
    parts = retry_in_halves(process_up_to(50, tried), 3, 102)
    np.testing.assert_array_equal(np.concatenate([rows for (rows,) in parts]), np.arange(3, 102))
    assert tried == [99, 49, 50]
    tried.clear()
    with pytest.raises(DeviceMemoryError):
        retry_in_halves(process_up_to(10, tried), 0, 100)
    assert tried == [100, 50]
    with pytest.raises(DeviceMemoryError):
        retry_in_halves(process_up_to(0, tried), 0, 1)


def test_the_error_keeps_its_class_when_pickled():
    copy = pickle.loads(pickle.dumps(DeviceMemoryError("5 bytes are missing")))
    assert type(copy) is DeviceMemoryError
    assert isinstance(copy, ResourceError)
    assert str(copy) == "5 bytes are missing"


@pytest.mark.parametrize("method", ["check_finite", "project"])
def test_halves_give_the_same_shards(tmp_path, monkeypatch, method):
    x = blobs(900)
    # The sample, here all rows, is projected in smaller blocks than those that run out of memory.
    monkeypatch.setattr("nomad_dask.partition.axes._BLOCK_ROWS", 500)
    settings = {"n_shards": 2, "n_epochs": 1, "keep_stages": True}
    whole = make_map(x, workspace=tmp_path / "whole", **settings)
    original = getattr(CpuBackend, method)
    failures = []

    def fail_for_all_rows(self, rows, *more):
        if len(rows) == 900:
            failures.append(method)
            raise DeviceMemoryError("The GPU has not enough memory.")
        return original(self, rows, *more)

    monkeypatch.setattr(CpuBackend, method, fail_for_all_rows)
    halved = make_map(x, workspace=tmp_path / "halves", **settings)
    assert failures
    for shard in range(2):
        for name in SHARD_FILES:
            one, other = (np.load(tmp_path / run / shard_file(shard, name)) for run in ("whole", "halves"))
            if method == "project" and name == "start":
                # On some CPUs a matrix product of half the rows rounds differently.
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(other, one)
    if method == "project":
        np.testing.assert_allclose(halved.positions, whole.positions, rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(halved.positions, whole.positions)
