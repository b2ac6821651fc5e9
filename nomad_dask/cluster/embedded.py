"""What the embedded clusters on CPUs and on GPUs share: their client, how they are closed, and start errors."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nomad_dask.errors import ClusterError, Interrupted, NomadWarning

MAIN_GUARD = (
    "In a script, put what starts a run under `if __name__ == '__main__':`, because every worker process first "
    "imports the script"
)


@contextmanager
def embedded_client(cluster: Any) -> Iterator[Any]:
    """Yield a client of an embedded cluster, and close both; a second Ctrl-C kills the workers.

    Parameters
    ----------
    cluster : distributed.LocalCluster

    Raises
    ------
    ClusterError
        The scheduler does not answer.
    """
    import dask.config
    import distributed

    Client: Any = distributed.Client
    try:
        # This long after it has lost a worker, Dask closes the worker's nanny if no worker is running at that moment:
        # because it died again, or because the machine is slow to start one.
        with _closing(cluster, cluster), dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}):
            try:
                client = Client(cluster, set_as_default=False)
            except OSError as error:
                raise too_busy_error(
                    f"The scheduler of the embedded cluster did not answer ({describe(error)})"
                ) from error
            with _closing(client, cluster):
                yield client
    except Interrupted:
        raise
    except KeyboardInterrupt:
        _kill_workers(cluster)
        raise


@contextmanager
def _closing(resource: Any, cluster: Any) -> Iterator[None]:
    """Close a cluster or its client at the end; the result of the run is valid even if Dask takes too long for it."""
    try:
        yield
    finally:
        try:
            resource.close()
        except TimeoutError as error:
            _kill_workers(cluster)
            warnings.warn(
                f"The embedded cluster did not close in time ({describe(error)}); its workers were killed.",
                NomadWarning,
                stacklevel=2,
            )


def _kill_workers(cluster: Any) -> None:
    for worker in list(cluster.workers.values()):
        pid = getattr(worker, "pid", None)  # of the nanny's process; a worker in this process has none
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def describe(error: BaseException) -> str:
    """Return the message of an error, or its type: some of Dask's errors have no message."""
    return str(error) or type(error).__name__


def too_busy_error(problem: str) -> ClusterError:
    """Return the error for a cluster that did not start in time."""
    return ClusterError(
        f"{problem}: is the machine very busy, or short of memory? Run the same again later, or with fewer workers."
    )


def refuse_during_main_import() -> None:
    """Raise in a worker process that still imports the main script: it must not start a cluster itself.

    Raises
    ------
    ClusterError
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ClusterError(f"This is a worker process that imports the script of its parent. {MAIN_GUARD}.")
