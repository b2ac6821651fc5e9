"""Free memory of a GPU, including the pools of CuPy and RMM."""

from __future__ import annotations

import sys
from typing import Any


def largest_block_bytes(cupy: Any) -> int:
    """Return the size of the largest array that CuPy can still allocate on this process's device.

    Memory that CuPy's pool does not use returns to the driver where that lacks memory. A pool of RMM gives nothing
    back, so an array comes from it or from the driver.

    Parameters
    ----------
    cupy : module
    """
    return max(_driver_bytes(cupy), _rmm_pool_bytes(untracked_is_free=False))


def unused_bytes(cupy: Any) -> int:
    """Return the memory of this process's device for all arrays together, before anything was allocated.

    Parameters
    ----------
    cupy : module
    """
    return _driver_bytes(cupy) + _rmm_pool_bytes(untracked_is_free=True)


def _driver_bytes(cupy: Any) -> int:
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def _rmm_pool_bytes(untracked_is_free: bool) -> int:
    """Return the unused memory of RMM's pool; a pool that tracks no allocations counts as free or as used."""
    # A pool can be in use only if RMM was imported; it may not be installed.
    if sys.modules.get("rmm") is None:
        return 0
    import rmm.mr

    resource: Any = rmm.mr.get_current_device_resource()
    allocated: int | None = None
    while resource is not None and not isinstance(resource, rmm.mr.PoolMemoryResource):
        if isinstance(resource, rmm.mr.TrackingResourceAdaptor):
            allocated = int(resource.get_allocated_bytes())
        resource = resource.get_upstream() if hasattr(resource, "get_upstream") else None
    if resource is None:
        return 0
    if allocated is None:
        return int(resource.pool_size()) if untracked_is_free else 0
    return int(resource.pool_size()) - allocated
