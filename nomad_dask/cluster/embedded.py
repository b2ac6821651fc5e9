"""What the embedded clusters on CPUs and on GPUs share: their client, how they are closed, and start errors."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from nomad_dask.cluster.quiet_logs import quiet_logs
from nomad_dask.errors import ClusterError, InputError, NomadWarning
from nomad_dask.utils.interrupts import deferred

# Dask has limits for each step, but starts a worker that its configuration does not allow to start without end.
_START_SECONDS = 120
_WARNINGS = "PYTHONWARNINGS"
PRELOAD = ["nomad_dask.cluster.preload"]
"""Modules that a worker process loads at its start."""
_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"
# Dask's profiler stops the workers a hundred times per second. Every scheduler, nanny and worker measures the lag
# of its event loop fifty times per second, which takes time from workers on the same cores and is not needed here.
_WITHOUT_MONITORS = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}
MAIN_GUARD = (
    "In a script, put what starts a run under `if __name__ == '__main__':`, because every worker process first "
    "imports the script"
)


@contextmanager
def embedded_client(start: Callable[[], Any]) -> Iterator[Any]:
    """Yield a client of an embedded cluster, and close both.

    A Ctrl-C waits while they start and while they close; a second one kills the workers.

    Parameters
    ----------
    start : callable
        Starts the cluster, a `distributed.LocalCluster`.

    Raises
    ------
    ClusterError
        The cluster does not start, or its scheduler does not answer.
    """
    import dask.config
    import distributed  # noqa: F401 - or what it adds to the configuration is removed with the setting below

    # This long after it has lost a worker, Dask closes the worker's nanny if no worker is running at that moment:
    # because it died again, or because the machine is slow to start one.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}), ExitStack() as stack:
        stack.callback(_forget_servers)
        stack.enter_context(quiet_logs())
        with deferred():
            cluster = _start_without_interrupts(start)
            stack.callback(_close, cluster, cluster)
            client = _client_of(cluster)
            stack.callback(_close, client, cluster)
        yield client


@contextmanager
def worker_settings() -> Iterator[None]:
    """Set Dask's configuration for the start of workers."""
    import dask.config
    import distributed  # noqa: F401 - its defaults are part of the configuration once it is imported

    # By default, Dask's workers return freed memory to the system at once and allocate it again in the next epoch,
    # which takes a third of their time.
    environment = {k: v for k, v in dask.config.get(_ENVIRONMENT).items() if k != "MALLOC_TRIM_THRESHOLD_"}
    with dask.config.set({_ENVIRONMENT: environment, **_WITHOUT_MONITORS}):
        yield


def _start_without_interrupts(start: Callable[[], Any]) -> Any:
    """Start a cluster in a thread whose threads and processes do not receive the Ctrl-C of a terminal.

    They inherit the blocked signal, also while they import what handles or ignores it. It is for the driver alone.
    """
    _start_resource_tracker()
    starting: Future[Any] = Future()
    # Python's end does not wait for a daemon thread.
    thread = threading.Thread(target=_set_result, args=(starting, start), name="nomad-start", daemon=True)
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    if not wait([starting], timeout=_START_SECONDS).done:
        starting.add_done_callback(_kill_started)
        raise too_busy_error(f"The embedded cluster did not start within {_START_SECONDS} s")
    return starting.result()


def _set_result(starting: Future[Any], start: Callable[[], Any]) -> None:
    try:
        starting.set_result(start())
    except BaseException as error:  # noqa: BLE001 - raised where the result is used
        starting.set_exception(error)


def _start_resource_tracker() -> None:
    """Start the process in which Python tracks semaphores: its start would unblock the signal.

    If Ctrl-C ends this process at once, it removes those of Dask, which is not worth a warning.
    """
    before = os.environ.get(_WARNINGS)
    os.environ[_WARNINGS] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        multiprocessing.get_context("spawn").Lock()
    finally:
        if before is None:
            del os.environ[_WARNINGS]
        else:
            os.environ[_WARNINGS] = before


def _kill_started(starting: Future[Any]) -> None:
    if starting.exception() is None:
        _kill_workers(starting.result())


def _client_of(cluster: Any) -> Any:
    import distributed

    Client: Any = distributed.Client
    try:
        return Client(cluster, set_as_default=False)
    except OSError as error:
        raise too_busy_error(f"The scheduler of the embedded cluster did not answer ({describe(error)})") from error


def _close(resource: Any, cluster: Any) -> None:
    """Close a cluster or its client; the result of the run is valid even if Dask takes too long for it."""
    try:
        with deferred():
            resource.close()
    except TimeoutError as error:
        _kill_workers(cluster)
        warnings.warn(
            f"The embedded cluster did not close in time ({describe(error)}); its workers were killed.",
            NomadWarning,
            stacklevel=2,
        )
    except KeyboardInterrupt:
        _kill_workers(cluster)
        raise


def _forget_servers() -> None:
    """Let the closed scheduler and worker be freed: Dask caches the signatures of their methods, with them.

    Otherwise each fit of a process would keep its own, and every message that Dask logs would go to all of them.
    """
    from distributed import core

    signatures = getattr(core, "_expects_comm", None)  # not public, so another version may do without
    if signatures is not None:
        signatures.cache_clear()


def _kill_workers(cluster: Any) -> None:
    for worker in list(cluster.workers.values()):
        pid = getattr(worker, "pid", None)  # of the nanny's process; a worker in this process has none
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def describe(error: BaseException) -> str:
    """Return the message of an error, or its type: some of Dask's errors have no message."""
    return str(error) or type(error).__name__


def start_error(what: str, error: Exception) -> ClusterError:
    """Return the error for an embedded cluster that did not start.

    Parameters
    ----------
    what : str
        What did not start.
    error : Exception
        Raised by Dask.
    """
    causes = [error]
    while isinstance(cause := causes[-1].__cause__ or causes[-1].__context__, Exception):
        causes.append(cause)
    reason = "; ".join(dict.fromkeys(describe(cause) for cause in (causes[0], causes[-1])))
    if isinstance(error, RuntimeError) and "anny" in str(error):  # a worker process; its own error is in its output
        return ClusterError(f"{what} did not start ({reason}). {MAIN_GUARD}. Otherwise see their output above.")
    return ClusterError(
        f"{what} did not start ({reason}): correct Dask's configuration if it sets what this names (its files in "
        "~/.config/dask, and environment variables that begin with DASK_), or give a client."
    )


def check_temporary_directory() -> None:
    """Check that workers can write to Dask's temporary directory.

    Raises
    ------
    InputError
    """
    import dask.config

    folder = dask.config.get("temporary-directory", None)
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except (OSError, TypeError, ValueError) as error:
        named = "The directory for temporary files" if folder is None else f"Dask's temporary-directory {folder!r}"
        remedy = (
            "TMPDIR" if folder is None else "DASK_TEMPORARY_DIRECTORY, or temporary-directory in its configuration,"
        )
        raise InputError(
            f"{named} cannot be used ({describe(error)}): set {remedy} to a directory that exists and can be written."
        ) from error


def too_busy_error(problem: str) -> ClusterError:
    """Return the error for a cluster that did not start in time."""
    return ClusterError(
        f"{problem}: is the machine very busy, or short of memory? Run the same again later, or with fewer workers."
    )


def check_worker_processes() -> None:
    """Check that this process can start worker processes.

    Raises
    ------
    ClusterError
        It is a worker process that still imports the main script, or a process that may start no others.
    """
    current = multiprocessing.current_process()
    if getattr(current, "_inheriting", False):
        raise ClusterError(f"This is a worker process that imports the script of its parent. {MAIN_GUARD}.")
    if current.daemon:
        raise ClusterError(
            f"The process {current.name!r} cannot start worker processes, because it is daemonic, as those of "
            "multiprocessing.Pool: leave n_workers out, give a client, or use concurrent.futures.ProcessPoolExecutor."
        )
