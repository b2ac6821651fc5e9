"""Copies between host and device through pinned memory, from which the device reads at full speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

# CuPy rounds pinned blocks up to powers of two and keeps them: one for a whole array may take twice its size for good.
PIECE_BYTES = 64 << 20
"""Largest block of pinned memory."""
MAX_BYTES_IN_FLIGHT = 2 * PIECE_BYTES
"""Pinned memory of copies in one direction."""
# Value of cudaError.
_NO_MEMORY = 2


class PinnedCopies:
    """Copies arrays piece by piece, while the host fills or empties another piece.

    Where no memory can be pinned, the pieces are in ordinary memory, which is slower.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        # Pinned memory must outlive the copies that read it.
        self._in_flight: deque[tuple[Any, np.ndarray]] = deque()

    def upload(self, target: Any, array: np.ndarray) -> None:
        """Copy an array to a C-contiguous device array of the same shape and dtype.

        The array may be changed afterwards, though the last copies may not be finished.
        """
        stream = self._cupy.cuda.get_current_stream()
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start, stop in _pieces(source.nbytes):
            self._wait_until_below(MAX_BYTES_IN_FLIGHT)
            staged = self._stage(stop - start)
            staged[:] = source[start:stop]
            (target.data + start).copy_from_host_async(staged.ctypes.data, stop - start, stream)
            self._in_flight.append((self._record(stream), staged))

    def download(self, array: Any) -> np.ndarray:
        """Return a copy of a C-contiguous device array, after all earlier work has finished."""
        stream = self._cupy.cuda.get_current_stream()
        copied = np.empty(array.shape, array.dtype)
        target = copied.reshape(-1).view(np.uint8)
        arriving: deque[tuple[Any, np.ndarray, int]] = deque()
        for start, stop in _pieces(target.nbytes):
            staged = self._stage(stop - start)
            (array.data + start).copy_to_host_async(staged.ctypes.data, stop - start, stream)
            arriving.append((self._record(stream), staged, start))
            if len(arriving) > 1:
                _receive(*arriving.popleft(), target)
        while arriving:
            _receive(*arriving.popleft(), target)
        return copied

    def clear(self) -> None:
        """Release the memory of copies; all of them must have finished."""
        self._in_flight.clear()

    def _stage(self, n_bytes: int) -> np.ndarray:
        """Return pinned memory, or ordinary memory if there is none to be had."""
        try:
            memory = self._cupy.cuda.alloc_pinned_memory(n_bytes)
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != _NO_MEMORY:
                raise
            return np.empty(n_bytes, np.uint8)
        return np.frombuffer(memory, np.uint8, n_bytes)

    def _record(self, stream: Any) -> Any:
        done = self._cupy.cuda.Event(disable_timing=True)
        done.record(stream)
        return done

    def _wait_until_below(self, n_bytes: int) -> None:
        """Release the memory of finished copies, and wait while others hold `n_bytes` or more."""
        while self._in_flight:
            done, _ = self._in_flight[0]
            if not done.done:
                if sum(staged.nbytes for _, staged in self._in_flight) < n_bytes:
                    return
                done.synchronize()
            self._in_flight.popleft()


def _pieces(n_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n_bytes, PIECE_BYTES):
        yield start, min(start + PIECE_BYTES, n_bytes)


def _receive(done: Any, staged: np.ndarray, start: int, target: np.ndarray) -> None:
    done.synchronize()
    target[start : start + staged.nbytes] = staged
