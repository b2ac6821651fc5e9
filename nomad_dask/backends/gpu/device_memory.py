"""Free memory of a GPU, the pools of CuPy and RMM included."""

from __future__ import annotations

import sys
from typing import Any


def device_free_bytes(cupy: Any, reserved_is_free: bool = False) -> int:
    """Return the memory of this process's device that CuPy can still get.

    That is what the driver calls free, and what the pools of CuPy and RMM have taken from it and not handed out.

    Parameters
    ----------
    cupy : module
    reserved_is_free : bool
        Take an RMM pool that does not count what it hands out for unused; without, for used up.
    """
    free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())
    # A pool is in use only where somebody has imported RMM, which need not be installed.
    if "rmm" not in sys.modules:
        return free
    import rmm.mr

    resource: Any = rmm.mr.get_current_device_resource()
    handed_out: int | None = None
    while resource is not None and not isinstance(resource, rmm.mr.PoolMemoryResource):
        if isinstance(resource, rmm.mr.TrackingResourceAdaptor):
            handed_out = int(resource.get_allocated_bytes())
        resource = resource.get_upstream() if hasattr(resource, "get_upstream") else None
    if resource is None:
        return free
    if handed_out is None:
        return free + (int(resource.pool_size()) if reserved_is_free else 0)
    return free + int(resource.pool_size()) - handed_out
