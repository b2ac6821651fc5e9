"""Error messages for allocations that fail on the device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.errors import DeviceMemoryError, ResourceError

_REQUESTED = re.compile(r"(?:allocating|allocate) ([\d,]+) bytes")  # CuPy, RMM


@contextmanager
def translate_oom(runtime: Runtime, task: str) -> Iterator[None]:
    """Turn a failed allocation on the device into an error that says what to do.

    Parameters
    ----------
    runtime : Runtime
    task : str
        What needs the memory, for the message.

    Raises
    ------
    DeviceMemoryError
        With the bytes requested and the bytes missing.
    """
    try:
        yield
    except ResourceError:
        raise
    except MemoryError as error:
        free = runtime.free_bytes()
        match = _REQUESTED.search(str(error))
        requested = int(match[1].replace(",", "")) if match else 0
        request = f"{requested:,} bytes were requested, " if requested else ""
        missing = f"{requested - free:,} bytes are missing" if requested > free else "but not contiguous"
        raise DeviceMemoryError(
            f"The GPU does not have enough memory for {task}: {request}{free:,} bytes are free, {missing}. Use more "
            "shards on more GPUs (n_shards), or free the memory that other processes use on this GPU."
        ) from error
