"""What an epoch leaves for the host: many small arrays in one buffer, so that one copy brings them over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_ALIGN = 16


class Readback:
    """Arrays in one buffer on the device.

    Parameters
    ----------
    xp : module
        CuPy, or what stands for it.
    parts : dict
        Dtype and shape of each array by its name.

    Attributes
    ----------
    buffer : array of uint8
    on_device : dict
        The arrays by name, for kernels to write.
    """

    def __init__(self, xp: Any, parts: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        self._places: dict[str, tuple[int, int, np.dtype[Any], tuple[int, ...]]] = {}
        end = 0
        for name, (kind, shape) in parts.items():
            dtype = np.dtype(kind)
            size = math.prod(shape) * dtype.itemsize
            self._places[name] = (end, end + size, dtype, shape)
            end += -(-size // _ALIGN) * _ALIGN
        self.buffer = xp.zeros(end, np.uint8)
        self.on_device = self.split(self.buffer)

    def split(self, buffer: Any) -> dict[str, Any]:
        """Return the arrays by name, as views of the buffer or of a copy of it."""
        return {
            name: buffer[start:stop].view(dtype).reshape(shape)
            for name, (start, stop, dtype, shape) in self._places.items()
        }
