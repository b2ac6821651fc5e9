"""The embedded cluster on the CPU cores of this machine."""

from __future__ import annotations

import os
from typing import Any

from nomad_dask.cluster.embedded import (
    PRELOAD,
    check_temporary_directory,
    check_worker_processes,
    describe,
    start_error,
    too_busy_error,
    worker_settings,
)

# The scheduler of an embedded cluster ends a worker this long after its last heartbeat; it checks at this interval.
# Imports and compilation delay heartbeats by seconds, our kernels do not.
WORKER_TTL_SECONDS = 60
# A worker in this process lives as long as its scheduler, also after the machine was suspended.
_NEVER_SECONDS = 10 * 365 * 86_400


def start_cpu_cluster(n_workers: int) -> Any:
    """Start worker processes that share the cores, or for one worker a thread of this process.

    Returns
    -------
    distributed.LocalCluster

    Raises
    ------
    ClusterError
        The processes do not start.
    InputError
        Dask's temporary directory cannot be used.
    """
    import distributed

    LocalCluster: Any = distributed.LocalCluster
    Security: Any = distributed.Security
    cores = len(os.sched_getaffinity(0))
    processes = n_workers > 1
    if processes:
        check_worker_processes()
    check_temporary_directory()
    ttl_seconds = WORKER_TTL_SECONDS if processes else _NEVER_SECONDS
    try:
        with worker_settings():
            return LocalCluster(
                n_workers=n_workers,
                threads_per_worker=max(1, cores // n_workers),
                processes=processes,
                host="127.0.0.1" if processes else None,
                # In one process nothing is sent that could be encrypted.
                protocol=None if processes else "inproc://",
                security=None if processes else Security(require_encryption=False),
                # No dashboard, as it costs a second of imports.
                dashboard_address="127.0.0.1:0",
                worker_class=None if processes else _loopback_worker(),
                scheduler_kwargs={"dashboard": False, "worker_ttl": ttl_seconds},
                memory_limit="auto" if processes else None,
                preload=PRELOAD if processes else [],
                silence_logs=50,
            )
    except TimeoutError as error:
        raise too_busy_error(f"The {n_workers} worker processes did not start in time ({describe(error)})") from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        what = f"The {n_workers} worker processes" if processes else "The embedded cluster"
        raise start_error(what, error) from error


def _loopback_worker() -> Any:
    from distributed import Worker

    class LoopbackWorker(Worker):
        """A worker whose HTTP server listens on loopback only; in one process, it has no host to derive this from."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"dashboard_address": "127.0.0.1:0"})

    return LoopbackWorker
