"""The free memory of a GPU, against a model of it that is asked for blocks of any size."""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.gpu.device_memory import largest_block_bytes, unused_bytes


@dataclass(frozen=True)
class Card:
    """Memory that the driver has, that CuPy's pool keeps, and of a pool of RMM; the rest is in use."""

    driver: int
    kept_by_cupy: int
    pool_size: int
    pool_used: int

    @property
    def cupy(self) -> Any:
        runtime = SimpleNamespace(memGetInfo=lambda: (self.driver, 1 << 40))
        pool = SimpleNamespace(free_bytes=lambda: self.kept_by_cupy)
        return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), get_default_memory_pool=lambda: pool)

    def allocates(self, n_bytes: int) -> bool:
        """Return whether there is one block of this size: in the pool, or in the driver's memory, where it grows."""
        in_pool = n_bytes <= self.pool_size - self.pool_used
        by_driver = n_bytes <= self.driver + self.kept_by_cupy
        return in_pool or by_driver

    def allocated_in_all(self) -> int:
        """Return the sum of blocks of one byte that fit."""
        return self.driver + self.kept_by_cupy + self.pool_size - self.pool_used


class PoolMemoryResource:
    def __init__(self, card: Card) -> None:
        self._card = card

    def pool_size(self) -> int:
        return self._card.pool_size


class TrackingResourceAdaptor:
    def __init__(self, upstream: Any, card: Card) -> None:
        self._upstream, self._card = upstream, card

    def get_upstream(self) -> Any:
        return self._upstream

    def get_allocated_bytes(self) -> int:
        return self._card.pool_used


class CudaAsyncMemoryResource:
    """The driver's own pool: what it does not use is free memory of the driver."""


def use_rmm(monkeypatch: pytest.MonkeyPatch, resource: Any) -> None:
    rmm, mr = ModuleType("rmm"), ModuleType("rmm.mr")
    mr.__dict__.update(
        get_current_device_resource=lambda: resource,
        PoolMemoryResource=PoolMemoryResource,
        TrackingResourceAdaptor=TrackingResourceAdaptor,
    )
    rmm.__dict__["mr"] = mr
    monkeypatch.setitem(sys.modules, "rmm", rmm)
    monkeypatch.setitem(sys.modules, "rmm.mr", mr)


sizes = st.integers(0, 1000)


@given(driver=sizes, kept=sizes, size=sizes, used=sizes)
def test_an_array_comes_from_a_pool_or_from_the_driver(driver, kept, size, used):
    card = Card(driver, kept, size, min(size, used))
    largest = bisect_left(range(1, 4001), True, key=lambda n: not card.allocates(n))
    with pytest.MonkeyPatch.context() as patch:
        use_rmm(patch, TrackingResourceAdaptor(PoolMemoryResource(card), card))
        assert largest_block_bytes(card.cupy) == largest
        assert unused_bytes(card.cupy) == card.allocated_in_all()


def test_a_pool_that_tracks_nothing_is_unused_at_the_start_only(monkeypatch):
    card = Card(driver=30, kept_by_cupy=2, pool_size=50, pool_used=0)
    use_rmm(monkeypatch, PoolMemoryResource(card))
    assert unused_bytes(card.cupy) == 82
    assert largest_block_bytes(card.cupy) == 32


@pytest.mark.parametrize("resource", [None, CudaAsyncMemoryResource()])
def test_without_a_pool_all_memory_is_the_drivers(monkeypatch, resource):
    card = Card(driver=30, kept_by_cupy=2, pool_size=0, pool_used=0)
    if resource is None:
        monkeypatch.delitem(sys.modules, "rmm", raising=False)
    else:
        use_rmm(monkeypatch, resource)
    assert largest_block_bytes(card.cupy) == unused_bytes(card.cupy) == 32
