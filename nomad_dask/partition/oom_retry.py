"""Process a block of rows in two halves when the GPU runs out of memory for the whole block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomad_dask.errors import DeviceMemoryError


def retry_in_halves(
    process: Callable[[int, int], tuple[np.ndarray, ...]], start: int, stop: int
) -> list[tuple[np.ndarray, ...]]:
    """Return ``[process(start, stop)]``, or the results of both halves when the GPU has no memory for the whole.

    Raises
    ------
    DeviceMemoryError
        There is not enough memory for a half either.
    """
    try:
        return [process(start, stop)]
    except DeviceMemoryError:
        if stop - start < 2:
            raise
    # Outside the handler: the traceback of the error keeps the arrays of the first attempt alive on the device.
    middle = (start + stop) // 2
    return [process(start, middle), process(middle, stop)]
