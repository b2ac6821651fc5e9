"""The connection to a cluster: a given client, a running scheduler, or an embedded cluster for one run."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from nomad_dask.backends.select import check_device
from nomad_dask.cluster.cpu_cluster import start_cpu_cluster
from nomad_dask.cluster.embedded import embedded_client
from nomad_dask.cluster.executor import GPU_START_SECONDS, Cluster
from nomad_dask.cluster.forks import check_fork
from nomad_dask.cluster.given_client import check_client
from nomad_dask.cluster.gpu_cluster import choose_local_workers, gpus_not_started_error, start_gpu_cluster
from nomad_dask.cluster.preflight import check_versions
from nomad_dask.cluster.remote import read_scheduler_file, remote_client
from nomad_dask.cluster.settings import check_settings
from nomad_dask.cluster.worker_state import PROCESS_LOCK
from nomad_dask.errors import ClusterError, InputError

# More processes than this, on a machine with fewer cores, are a slip.
_MANY_WORKERS = 64


@contextmanager
def connect(
    *,
    client: Any = None,
    scheduler: str | None = None,
    scheduler_file: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    device: str = "cpu",
    data_in_process: bool = False,
) -> Iterator[Cluster]:
    """Yield a cluster whose workers are ready for tasks, and close what was opened for it.

    Parameters
    ----------
    client : distributed.Client or str, optional
        Used as it is, and left open. A text is the address of a scheduler.
    scheduler : str, optional
        Address of a running scheduler. For ``tls://`` the certificates are those of Dask's configuration.
    scheduler_file : path-like, optional
        File in which a running scheduler has written its address (``dask scheduler --scheduler-file``).
    n_workers : int, optional
        Workers of the embedded cluster. On CPUs, one (the default) is this process itself with all its cores;
        several are processes that share the cores. On GPUs there is a process for each, by default for all; without
        dask-cuda, there is this process with one GPU.
    device : {'auto', 'cpu', 'gpu'}
        ``"auto"`` uses GPUs where the workers, or for an embedded cluster this process, have them.
    data_in_process : bool
        The vectors are in the memory of this process. On a machine with a single GPU, the worker is then this
        process, so that they are not copied to another one.

    Raises
    ------
    InputError
        `client`, `n_workers`, `device` or a setting of this package in Dask's configuration is invalid.
    MissingInputError
        There is no `scheduler_file`.
    ClusterError
        The scheduler does not answer within ten seconds, there is no worker, workers have another version or lack
        what `device` needs, or workers of an embedded cluster do not start.
    """
    check_device(device)
    check_settings()
    _check_n_workers(n_workers)
    if isinstance(client, str):
        client, scheduler = None, client
    if client is None and scheduler is None and scheduler_file is not None:
        scheduler = read_scheduler_file(Path(scheduler_file))
    if client is not None:
        check_client(client)
        connection = _prepared(client, device)
    elif scheduler is not None:
        connection = _remote(scheduler, device)
    else:
        local = choose_local_workers(device, n_workers, data_in_process)
        connection = _local_gpus(n_workers) if local == "gpus" else _local_cpus(n_workers or 1, local)
    try:
        with connection as cluster:
            yield cluster
    except OSError as error:
        from distributed.comm.core import CommClosedError

        if not isinstance(error, CommClosedError):
            raise
        raise ClusterError(
            f"A connection in the cluster broke ({error}): check that the scheduler and the workers run and have "
            "enough memory, and run the same again."
        ) from error


def _check_n_workers(n_workers: Any) -> None:
    limit = max(_MANY_WORKERS, len(os.sched_getaffinity(0)))
    is_whole = isinstance(n_workers, numbers.Integral) and not isinstance(n_workers, bool)
    if n_workers is not None and not (is_whole and 1 <= n_workers <= limit):
        raise InputError(
            f"n_workers={n_workers!r} is not accepted: give a whole number from 1 to {limit}, or None. "
            "Each is a process on this machine."
        )


@contextmanager
def _remote(scheduler: str, device: str) -> Iterator[Cluster]:
    with remote_client(scheduler) as client, _prepared(client, device) as cluster:
        yield cluster


@contextmanager
def _local_cpus(n_workers: int, device: str) -> Iterator[Cluster]:
    """Yield an embedded cluster of CPU processes, or of this process, which may compute on its one GPU."""
    check_fork(PROCESS_LOCK)
    with (
        embedded_client(partial(start_cpu_cluster, n_workers)) as client,
        _prepared(client, device, in_process=n_workers == 1) as cluster,
    ):
        yield cluster


@contextmanager
def _local_gpus(n_workers: int | None) -> Iterator[Cluster]:
    check_fork(PROCESS_LOCK)
    with embedded_client(partial(start_gpu_cluster, n_workers)) as client:
        try:
            client.wait_for_workers(len(client.cluster.worker_spec), timeout=GPU_START_SECONDS)
        except TimeoutError as error:
            raise gpus_not_started_error(error) from error
        with _prepared(client, "gpu") as cluster:
            yield cluster


@contextmanager
def _prepared(client: Any, device: str, in_process: bool = False) -> Iterator[Cluster]:
    """Check the workers of a client, and give them their state until the end of the context."""
    # It imports distributed, which takes long.
    from nomad_dask.cluster.worker_plugin import registered_plugin

    cluster = Cluster(client, in_process)
    cluster.workers()
    check_versions(cluster)
    cluster.choose_device(device)
    with registered_plugin(client):
        yield cluster
