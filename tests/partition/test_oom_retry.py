"""A block for which the GPU has no memory is done in halves, to the same rows; the CPU's backend stands for it here."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.errors import DeviceMemoryError, ResourceError
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.partition.shuffle import SHARD_FILES, shard_file
from tests.helpers.runs import blobs, make_map


def limited(limit: int, tried: list[int]):
    def work(start: int, stop: int) -> tuple[np.ndarray]:
        tried.append(stop - start)
        if stop - start > limit:
            raise DeviceMemoryError("no memory")
        return (np.arange(start, stop),)

    return work


def test_once_and_in_order():
    tried: list[int] = []
    parts = retry_in_halves(limited(50, tried), 3, 102)
    np.testing.assert_array_equal(np.concatenate([rows for (rows,) in parts]), np.arange(3, 102))
    assert tried == [99, 49, 50]
    tried.clear()
    with pytest.raises(DeviceMemoryError):
        retry_in_halves(limited(10, tried), 0, 100)
    assert tried == [100, 50]
    with pytest.raises(DeviceMemoryError):
        retry_in_halves(limited(0, tried), 0, 1)


def test_the_error_keeps_its_kind_between_processes():
    again = pickle.loads(pickle.dumps(DeviceMemoryError("5 bytes are missing")))
    assert type(again) is DeviceMemoryError
    assert isinstance(again, ResourceError)
    assert str(again) == "5 bytes are missing"


@pytest.mark.parametrize("method", ["check_finite", "project"])
def test_the_same_shards(tmp_path, monkeypatch, method):
    x = blobs(900)
    # The sample, which here is all rows, is projected in smaller blocks than those that have no memory.
    monkeypatch.setattr("nomad_dask.partition.clustering._BLOCK_ROWS", 500)
    settings = {"n_shards": 2, "n_epochs": 1, "keep_stages": True}
    whole = make_map(x, workspace=tmp_path / "whole", **settings)
    plain = getattr(CpuBackend, method)
    refused = []

    def scarce(self, rows, *more):
        if len(rows) == 900:
            refused.append(method)
            raise DeviceMemoryError("The GPU has not enough memory.")
        return plain(self, rows, *more)

    monkeypatch.setattr(CpuBackend, method, scarce)
    halved = make_map(x, workspace=tmp_path / "halves", **settings)
    assert refused
    for shard in range(2):
        for what in SHARD_FILES:
            one, other = (np.load(tmp_path / name / shard_file(shard, what)) for name in ("whole", "halves"))
            if method == "project" and what == "start":
                # On some CPUs a matrix product of half the rows rounds differently.
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(other, one)
    if method == "project":
        np.testing.assert_allclose(halved.positions, whole.positions, rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(halved.positions, whole.positions)
