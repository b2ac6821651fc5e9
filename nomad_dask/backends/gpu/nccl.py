"""Collective operations on several GPUs by NCCL, as CuPy offers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nomad_dask.backends.joint import CommunicatorError, RowParts

_INSTALL = "install nvidia-nccl-cu13, or nvidia-nccl-cu12 where the driver is for CUDA 12"


def communicator_id() -> Any:
    """Return the identifier of a new group of GPUs, by which its members find each other.

    Raises
    ------
    CommunicatorError
        NCCL cannot be used.
    """
    nccl = _load_nccl()
    with _translate_errors(nccl):
        return nccl.get_unique_id()


class NcclCommunicator:
    """The `Communicator` of a process with one GPU.

    Parameters
    ----------
    cupy : module
    communicator_id : object
    rank, n_members : int

    Raises
    ------
    CommunicatorError
        NCCL cannot be used, or fails.
    """

    def __init__(self, cupy: Any, communicator_id: Any, rank: int, n_members: int) -> None:
        self._cupy = cupy
        self._nccl = nccl = _load_nccl()
        with _translate_errors(nccl):
            self._communicator: Any = nccl.NcclCommunicator(n_members, communicator_id, rank)

    def sum_integers(self, values: Any, total: Any) -> None:
        """Write the sum of the members' `values` to `total`; see `Communicator`."""
        nccl, stream = self._nccl, self._cupy.cuda.get_current_stream().ptr
        with _translate_errors(nccl):
            self._communicator.allReduce(
                values.data.ptr, total.data.ptr, values.size, nccl.NCCL_INT64, nccl.NCCL_SUM, stream
            )

    def share_parts(self, array: Any, parts: RowParts) -> None:
        """Make each part of an array that of its owner: one broadcast a part, all in one operation."""
        nccl, stream = self._nccl, self._cupy.cuda.get_current_stream().ptr
        with _translate_errors(nccl):
            nccl.groupStart()
            try:
                for owner, start, n_bytes in _parts_in_bytes(array, parts):
                    place = array.data.ptr + start
                    self._communicator.broadcast(place, place, n_bytes, nccl.NCCL_UINT8, owner, stream)
            finally:
                nccl.groupEnd()

    def check(self) -> None:
        """Raise a `CommunicatorError` if an operation has failed."""
        with _translate_errors(self._nccl), suppress(KeyError):  # CuPy has no text for "in progress"
            self._communicator.check_async_error()

    def abort(self) -> None:
        """End all operations: NCCL allows it from another thread, and the call does not wait for other members."""
        self._communicator.abort()


def _parts_in_bytes(array: Any, parts: RowParts) -> Iterator[tuple[int, int, int]]:
    """Yield the owner of each part that has rows, and where its bytes start and how many they are."""
    row_bytes = array.nbytes // max(len(array), 1)
    for owner, start, stop in zip(parts.owners, parts.offsets[:-1].tolist(), parts.offsets[1:].tolist(), strict=True):
        if stop > start:
            yield owner, start * row_bytes, (stop - start) * row_bytes


@contextmanager
def _translate_errors(nccl: Any) -> Iterator[None]:
    try:
        yield
    except nccl.NcclError as error:
        raise CommunicatorError(f"NCCL fails: {error}") from error


def _load_nccl() -> Any:
    """Return CuPy's module of NCCL.

    Raises
    ------
    CommunicatorError
        CuPy does not find the library.
    """
    from cupy.cuda import nccl

    if not nccl.available:
        raise CommunicatorError(f"CuPy finds no NCCL: {_INSTALL}")
    return nccl
