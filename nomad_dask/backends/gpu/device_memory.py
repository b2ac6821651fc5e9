"""Free memory of a GPU, including the pools of CuPy and RMM."""

from __future__ import annotations

import sys
from typing import Any


def device_free_bytes(cupy: Any, reserved_is_free: bool = False) -> int:
    """Return the memory of this process's device that CuPy can still allocate.

    This is the memory that the driver reports as free, plus the unused memory in the pools of CuPy and RMM.

    Parameters
    ----------
    cupy : module
    reserved_is_free : bool
        Whether to count an RMM pool that does not track its allocations as free or as used.
    """
    free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())
    # A pool can be in use only if RMM was imported; it may not be installed.
    if "rmm" not in sys.modules:
        return free
    import rmm.mr

    resource: Any = rmm.mr.get_current_device_resource()
    allocated: int | None = None
    while resource is not None and not isinstance(resource, rmm.mr.PoolMemoryResource):
        if isinstance(resource, rmm.mr.TrackingResourceAdaptor):
            allocated = int(resource.get_allocated_bytes())
        resource = resource.get_upstream() if hasattr(resource, "get_upstream") else None
    if resource is None:
        return free
    if allocated is None:
        return free + (int(resource.pool_size()) if reserved_is_free else 0)
    return free + int(resource.pool_size()) - allocated
