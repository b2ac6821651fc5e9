"""Results of an epoch on the host: many small arrays in one buffer, so that one copy transfers them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime, count_blocks
from nomad_dask.backends.mesh import sample_step
from nomad_dask.backends.shard_layout import loss_stride

EDGE_LANES = 8
"""Threads per row in the kernels that read edges."""
_PATCH_LANES = 8
# Threads of the kernel that computes the bounding box: each block writes a partial box, and all are copied.
_BOX_THREADS = 1 << 17
_ALIGN = 16


class Readback:
    """Arrays in one buffer on the device.

    Parameters
    ----------
    xp : module
        CuPy, or a module with the same interface.
    arrays : dict
        Dtype and shape of each array by name.

    Attributes
    ----------
    buffer : array of uint8
    on_device : dict
        The arrays by name, for kernels to write.
    """

    def __init__(self, xp: Any, arrays: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        self._slots: dict[str, tuple[int, int, np.dtype[Any], tuple[int, ...]]] = {}
        end = 0
        for name, (kind, shape) in arrays.items():
            dtype = np.dtype(kind)
            size = math.prod(shape) * dtype.itemsize
            self._slots[name] = (end, end + size, dtype, shape)
            end += -(-size // _ALIGN) * _ALIGN
        self.buffer = xp.zeros(end, np.uint8)
        self.on_device = self.split(self.buffer)

    def split(self, buffer: Any) -> dict[str, Any]:
        """Return the arrays by name, as views of the buffer or of a copy of it."""
        return {
            name: buffer[start:stop].view(dtype).reshape(shape)
            for name, (start, stop, dtype, shape) in self._slots.items()
        }


class EpochReport:
    """What the host reads after an epoch: Z, the loss, the patches, and the extent of the map.

    Parameters
    ----------
    n_rows, n_patches, dim : int
    runtime : Runtime

    Attributes
    ----------
    partition_sum, loss : array of float64 (1,), (blocks,)
        On the device: the shard's part of Z, and partial sums of the loss.
    loss_stride, n_loss_rows : int
        The loss is measured in rows 0, ``loss_stride``, ``2·loss_stride`` and so on.
    """

    def __init__(self, n_rows: int, n_patches: int, dim: int, runtime: Runtime) -> None:
        self._n_rows = n_rows
        self._dim = dim
        self._runtime = runtime
        self.loss_stride = loss_stride(n_rows)
        self.n_loss_rows = len(range(0, n_rows, self.loss_stride))
        self._box_threads = min(n_rows, _BOX_THREADS)
        self._readback = Readback(
            runtime.xp,
            {
                "z": (np.float64, (1,)),
                "loss": (np.float64, (count_blocks(EDGE_LANES * self.n_loss_rows),)),
                "box": (np.float32, (count_blocks(self._box_threads), 2, dim)),
                "sample": (np.float32, (len(range(0, n_rows, sample_step(n_rows))), dim)),
                "patches": (np.float32, (n_patches, 2 * dim)),
            },
        )
        self._on_device = self._readback.on_device
        self.partition_sum: Any = self._on_device["z"]
        self.loss: Any = self._on_device["loss"]
        self._on_host = self._readback.split(np.zeros(self._readback.buffer.shape, np.uint8))

    def measure(self, positions: Any, rows_by_patch: Any, patch_offsets: Any) -> None:
        """Launch the kernels that measure positions: bounding box, sample, and moments of the patches."""
        n, out = np.int64(self._n_rows), self._on_device
        step = np.int64(sample_step(self._n_rows))
        self._runtime.launch("watch", self._dim, self._box_threads, positions, n, step, out["sample"], out["box"])
        if n_patches := len(out["patches"]):
            self._runtime.launch(
                "patch_moments", self._dim, _PATCH_LANES * n_patches, positions, rows_by_patch, patch_offsets,
                np.int64(n_patches), out["patches"],
            )  # fmt: skip

    def download(self) -> None:
        """Copy the results to the host, after all earlier work has finished."""
        self._on_host = self._readback.split(self._runtime.download(self._readback.buffer))

    def host_partition_sum(self) -> float:
        """Return the shard's part of Z."""
        return float(self._on_host["z"][0])

    def host_loss(self) -> float:
        """Return the shard's loss, extrapolated from the measured rows."""
        return float(self._on_host["loss"].sum()) * self._n_rows / self.n_loss_rows

    def host_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners (dim,) of the bounding box of all positions."""
        box = self._on_host["box"]
        return box[:, 0].min(axis=0), box[:, 1].max(axis=0)

    def host_sample(self) -> np.ndarray:
        """Return every `mesh.sample_step`-th position (m, dim)."""
        sample: np.ndarray = self._on_host["sample"]
        return sample

    def host_patch_moments(self) -> np.ndarray:
        """Return a copy of the means and standard deviations (n_patches, 2·dim) of the patches."""
        return np.array(self._on_host["patches"])
