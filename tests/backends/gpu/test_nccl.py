"""`NcclCommunicator` with NCCL's functions on memory of the host, by the pointers and sizes they are given."""

from __future__ import annotations

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nomad_dask.backends.gpu.nccl import NcclCommunicator, communicator_id
from nomad_dask.backends.joint import CommunicatorError, RowParts

N_MEMBERS = 3


class NcclError(RuntimeError):
    pass


class Nccl(ModuleType):
    """The module `cupy.cuda.nccl`, for members that are threads of this process."""

    available, NcclError = True, NcclError
    NCCL_UINT8, NCCL_INT64, NCCL_SUM = 1, 4, 0

    def __init__(self) -> None:
        super().__init__("cupy.cuda.nccl")
        self.barrier = threading.Barrier(N_MEMBERS)
        self.places: dict[int, Any] = {}
        self.in_group = threading.local()
        nccl = self

        class Member:
            def __init__(self, n_members: int, found: Any, rank: int) -> None:
                assert (n_members, found) == (N_MEMBERS, b"id")
                self.rank, self.error = rank, 0

            def allReduce(self, send: int, receive: int, n: int, kind: int, operation: int, stream: int) -> None:  # noqa: N802 - as CuPy has it
                assert (kind, operation, stream) == (nccl.NCCL_INT64, nccl.NCCL_SUM, 9)
                nccl.places[self.rank] = np.ctypeslib.as_array((ctypes.c_int64 * n).from_address(send)).copy()
                nccl.barrier.wait(5)
                total = sum(nccl.places[rank] for rank in range(N_MEMBERS))
                ctypes.memmove(receive, total.ctypes.data, 8 * n)
                nccl.barrier.wait(5)

            def broadcast(self, send: int, receive: int, n: int, kind: int, root: int, stream: int) -> None:
                assert (kind, stream) == (nccl.NCCL_UINT8, 9)
                nccl.in_group.calls.append((self.rank, send, receive, n, root))

            def check_async_error(self) -> None:
                if self.error == 7:
                    raise KeyError(7)
                if self.error:
                    raise NcclError("remote error")

            def abort(self) -> None:
                nccl.places.clear()

        self.NcclCommunicator = Member

    def get_unique_id(self) -> bytes:
        return b"id"

    def groupStart(self) -> None:  # noqa: N802 - as CuPy has it
        self.in_group.calls = []

    def groupEnd(self) -> None:  # noqa: N802 - as CuPy has it
        for rank, send, receive, n, root in self.in_group.calls:
            self.barrier.wait(5)
            if rank == root:
                self.places["root"] = ctypes.string_at(send, n)
            self.barrier.wait(5)
            assert len(self.places["root"]) == n
            ctypes.memmove(receive, self.places["root"], n)


class DeviceArray:
    """An array with the attributes of CuPy's."""

    def __init__(self, held: np.ndarray) -> None:
        self.held, self.size, self.nbytes = held, held.size, held.nbytes
        self.data = SimpleNamespace(ptr=held.ctypes.data)

    def __len__(self) -> int:
        return len(self.held)


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> Nccl:
    module = Nccl()
    cuda = ModuleType("cupy.cuda")
    cuda.nccl = module
    for name, value in (("cupy", ModuleType("cupy")), ("cupy.cuda", cuda), ("cupy.cuda.nccl", module)):
        monkeypatch.setitem(sys.modules, name, value)
    return module


CUPY = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=9)))


def member(rank: int) -> NcclCommunicator:
    return NcclCommunicator(CUPY, communicator_id(), rank, N_MEMBERS)


def test_integers_are_summed_over_all_members(nccl):
    values = [np.random.default_rng(rank).integers(-(2**60), 2**60, (4, 5)) for rank in range(N_MEMBERS)]
    totals = [np.zeros((4, 5), np.int64) for _ in range(N_MEMBERS)]

    def work(rank: int) -> None:
        member(rank).sum_integers(DeviceArray(values[rank]), DeviceArray(totals[rank]))

    with ThreadPoolExecutor(N_MEMBERS) as pool:
        list(pool.map(work, range(N_MEMBERS)))
    for total in totals:
        np.testing.assert_array_equal(total, np.sum(values, axis=0))


@pytest.mark.parametrize("shape", [(11, 2), (11, 3), (11,)])
def test_each_part_becomes_that_of_its_owner(shape, nccl):
    offsets, owners = np.array([0, 4, 4, 5, 11]), (2, 0, 0, 1)
    arrays = [np.full(shape, rank, np.float32) for rank in range(N_MEMBERS)]

    def work(rank: int) -> None:
        member(rank).share_parts(DeviceArray(arrays[rank]), RowParts(offsets, owners, N_MEMBERS))

    with ThreadPoolExecutor(N_MEMBERS) as pool:
        list(pool.map(work, range(N_MEMBERS)))
    expected = np.repeat(owners, np.diff(offsets))
    for array in arrays:
        np.testing.assert_array_equal(array.reshape(11, -1)[:, 0], expected)
        np.testing.assert_array_equal(array.reshape(11, -1)[:, -1], expected)


def test_a_failed_operation_is_told(nccl):
    one = member(0)
    one.check()
    one._communicator.error = 7  # in progress, for which CuPy has no text
    one.check()
    one._communicator.error = 6
    with pytest.raises(CommunicatorError, match="NCCL fails: remote error"):
        one.check()


def test_a_group_is_closed_also_when_a_call_fails(nccl, monkeypatch):
    closed = []
    monkeypatch.setattr(Nccl, "groupEnd", lambda self: closed.append(1))
    one = member(0)

    def broadcast(*_: Any) -> None:
        raise NcclError("no memory")

    one._communicator.broadcast = broadcast
    with pytest.raises(CommunicatorError, match="no memory"):
        one.share_parts(DeviceArray(np.zeros(3)), RowParts(np.array([0, 3]), (0,), 1))
    assert closed


def test_a_missing_library_is_told(nccl, monkeypatch):
    monkeypatch.setattr(Nccl, "available", False)
    with pytest.raises(CommunicatorError, match="CuPy finds no NCCL: install nvidia-nccl-cu13"):
        communicator_id()
