"""A block of rows again in halves, when the GPU had no memory for the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomad_dask.errors import DeviceMemoryError


def retry_in_halves(
    work: Callable[[int, int], tuple[np.ndarray, ...]], start: int, stop: int
) -> list[tuple[np.ndarray, ...]]:
    """Return ``[work(start, stop)]``, or what it gives for both halves when the GPU has no memory for the whole.

    Raises
    ------
    DeviceMemoryError
        There is no memory for a half either.
    """
    try:
        return [work(start, stop)]
    except DeviceMemoryError:
        if stop - start < 2:
            raise
    # Out of the handler: the error's traceback holds what the first try has on the device.
    middle = (start + stop) // 2
    return [work(start, middle), work(middle, stop)]
