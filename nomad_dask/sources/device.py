"""Vectors in GPU memory: what the sources of CuPy arrays, cuDF frames and Dask collections of them share.

Neither library is imported here. NumPy's functions dispatch to CuPy when they are called with CuPy arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import sampled_digest


class DeviceSource(Source):
    """Rows in GPU memory, which the GPU backend reads without a copy to the host.

    A single process owns that memory. Workers that are threads of this process read it directly. Worker processes
    cannot, so the rows are first written to the workspace, downloaded block by block, like an array in host memory;
    each worker then reads the file to its own GPU.
    """

    shareable = False

    @abstractmethod
    def read_device(self, start: int, stop: int) -> Any:
        """Return rows `start` to `stop` as a C-contiguous device array ``(stop - start, n_dims)`` of `dtype`.

        It may be a view of the user's data: never write to it.
        """

    def read(self, start: int, stop: int) -> np.ndarray:
        """Download the rows."""
        return host_array(self.read_device(start, stop))

    def fingerprint(self) -> str:
        """Digest a sample of the rows; equal rows in host memory have the same digest."""
        return sampled_digest(self)


def host_array(array: Any) -> np.ndarray:
    """Return a device array as a NumPy array; a NumPy array is returned unchanged."""
    return array if isinstance(array, np.ndarray) and type(array) is np.ndarray else np.ascontiguousarray(array.get())


def contiguous(rows: Any) -> Any:
    """Return rows in C order, copied only if they are not."""
    return rows if rows.flags.c_contiguous else rows.copy(order="C")
