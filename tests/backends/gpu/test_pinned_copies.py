"""Copies between host and device on a stand-in for CuPy, whose copies are made as late as a device may make them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.gpu import pinned_copies
from nomad_dask.backends.gpu.cuda_runtime import CudaRuntime


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"error {status}")
        self.status = status


class Memory:
    """A place in the memory of the device."""

    def __init__(self, card: Card, held: np.ndarray, offset: int = 0) -> None:
        self._card, self._held, self._offset = card, held, offset

    def __add__(self, offset: int) -> Memory:
        return Memory(self._card, self._held, self._offset + offset)

    def _address(self, n_bytes: int) -> int:
        assert 0 <= self._offset <= self._offset + n_bytes <= self._held.nbytes
        return int(self._held.ctypes.data) + self._offset

    def copy_from_host_async(self, address: int, n_bytes: int, stream: Any = None) -> None:
        to = self._address(n_bytes)
        self._card.queue.append(lambda: ctypes.memmove(to, address, n_bytes))

    def copy_to_host_async(self, address: int, n_bytes: int, stream: Any = None) -> None:
        source = self._address(n_bytes)
        self._card.queue.append(lambda: ctypes.memmove(address, source, n_bytes))


class OnDevice:
    """A device array."""

    def __init__(self, card: Card, shape: tuple[int, ...], dtype: Any) -> None:
        self.held = np.full(shape, 1, dtype)
        self.shape, self.dtype, self.size, self.nbytes = shape, self.held.dtype, self.held.size, self.held.nbytes
        self.data = Memory(card, self.held)


class Event:
    def __init__(self, card: Card) -> None:
        self._card, self._position = card, 0

    def record(self, stream: Any) -> None:
        self._position = self._card.n_done + len(self._card.queue)

    @property
    def done(self) -> bool:
        return self._card.n_done >= self._position

    def synchronize(self) -> None:
        self._card.run(self._position)


class Card:
    """The stream of a device, and pinned memory in blocks of powers of two, which holds other bytes once it is freed.

    Parameters
    ----------
    status : int
        Of the error of each pinned block; 0 for none.
    """

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.queue: list[Callable[[], Any]] = []
        self.n_done = self.pinned_bytes = self.most_pinned_bytes = 0
        self._blocks: list[np.ndarray] = []

    def run(self, until: int | None = None) -> None:
        while self.queue and (until is None or self.n_done < until):
            self.queue.pop(0)()
            self.n_done += 1

    def pin(self, n_bytes: int) -> Any:
        if self.status:
            raise CUDARuntimeError(self.status)
        block = np.zeros(max(512, 1 << (n_bytes - 1).bit_length()), np.uint8)
        self._blocks.append(block)  # so that a copy made too late reads what is wrong, and not what is gone
        self.pinned_bytes += block.nbytes
        self.most_pinned_bytes = max(self.most_pinned_bytes, self.pinned_bytes)

        def free(_: Any) -> None:
            block[:] = 0xAA
            self.pinned_bytes -= block.nbytes

        kind = type("Pinned", (ctypes.c_char * block.nbytes,), {"__del__": free})
        return kind.from_buffer(block)

    def as_array(self, array: np.ndarray) -> OnDevice:
        """As CuPy does it, which pins as many bytes as the array has."""
        made = OnDevice(self, array.shape, array.dtype)
        memory = self.pin(array.nbytes)
        np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)[...] = array
        made.held[...] = array
        return made

    @property
    def cupy(self) -> Any:
        stream = SimpleNamespace(synchronize=self.run)
        return SimpleNamespace(
            cuda=SimpleNamespace(
                is_available=lambda: True,
                alloc_pinned_memory=self.pin,
                get_current_stream=lambda: stream,
                Event=lambda disable_timing: Event(self),
                runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
            ),
            empty=lambda shape, dtype: OnDevice(self, shape, dtype),
            asarray=self.as_array,
            ascontiguousarray=lambda array: array,
        )


@pytest.fixture
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pinned_copies, "PIECE_BYTES", 1024)
        patch.setattr(pinned_copies, "MAX_BYTES_IN_FLIGHT", 2048)
        yield


def runtime_of(card: Card) -> CudaRuntime:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", card.cupy)
        return CudaRuntime()


def some(n_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, n_bytes, np.uint8)


@settings(max_examples=40)
@given(
    shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    dtype=st.sampled_from(["u1", "f2", "i4", "f8", "?"]),
    order=st.sampled_from("CF"),
)
@pytest.mark.usefixtures("small_pieces")
def test_arrays_arrive_as_they_are(shape, dtype, order):
    array = np.asarray(some(int(np.prod(shape)), len(shape)).reshape(shape).astype(dtype), order=order)
    card = Card()
    runtime = runtime_of(card)
    sent = array.copy(order)
    on_device = runtime.upload(sent)
    if sent.size:
        sent[...] = 0  # the caller may go on at once
    again = runtime.download(on_device)
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype
    assert again.shape == array.shape


@pytest.mark.usefixtures("small_pieces")
def test_copies_follow_each_other_in_order():
    """Several arrays into one, before any copy was made."""
    card = Card()
    runtime = runtime_of(card)
    target = OnDevice(card, (700,), np.dtype(np.float32))
    for seed in range(5):
        array = some(700, seed).astype(np.float32)
        runtime.upload_into(target, array)
    np.testing.assert_array_equal(runtime.download(target), array)


def test_few_bytes_are_pinned_for_many():
    """Arrays of edges have gigabytes."""
    card = Card()
    runtime = runtime_of(card)
    array = some(300_000_000)
    on_device = runtime.upload(array)
    np.testing.assert_array_equal(runtime.download(on_device), array)
    assert 0 < card.most_pinned_bytes <= 256_000_000


@pytest.mark.usefixtures("small_pieces")
def test_without_memory_to_pin_copies_are_made_from_other_memory():
    card = Card(status=2)  # cudaErrorMemoryAllocation
    runtime = runtime_of(card)
    array = some(5000)
    on_device = runtime.upload(array)
    runtime.upload_into(on_device, array[::-1])
    np.testing.assert_array_equal(runtime.download(on_device), array[::-1])
    assert card.most_pinned_bytes == 0


def test_other_errors_are_raised():
    card = Card(status=700)  # cudaErrorIllegalAddress, of an earlier kernel
    runtime = runtime_of(card)
    with pytest.raises(CUDARuntimeError, match="700"):
        runtime.upload(some(10))
    with pytest.raises(CUDARuntimeError, match="700"):
        runtime.download(OnDevice(card, (10,), np.dtype(np.uint8)))
