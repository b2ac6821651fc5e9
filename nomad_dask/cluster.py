"""The Dask cluster: the client given, or an embedded one; preflight, and running tasks with progress."""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nomad_dask.errors import ClusterError, InputError, Interrupted, NomadError

ANSWER_SECONDS = 10
_PROGRESS_SECONDS = 0.25
_TOPIC = "nomad-dask"

# One task of ours at a time in a process, with all its threads: as on a GPU, and never more threads than cores.
_slot = threading.Lock()
_stop = threading.Event()


@dataclass(frozen=True)
class WorkerInfo:
    """One worker as the scheduler knows it."""

    address: str
    threads: int
    memory_bytes: int


class Cluster:
    """A client with its workers, seen by the stages.

    Parameters
    ----------
    client : distributed.Client
    in_process : bool
        Whether its workers are threads of this process.
    """

    def __init__(self, client: Any, in_process: bool) -> None:
        self.client = client
        self.in_process = in_process

    def workers(self) -> list[WorkerInfo]:
        """Return the workers there are now, in a fixed order.

        Raises
        ------
        ClusterError
            There are none.
        """
        # Asked directly: `Client.scheduler_info` gives what a refresh every two seconds may have emptied.
        known = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        if not known:
            raise ClusterError(
                "The Dask cluster has no workers: start some (dask worker ADDRESS), or give another scheduler."
            )
        return [
            WorkerInfo(address, w["nthreads"], int(w["memory_limit"] or _free_memory()))
            for address, w in sorted(known.items())
        ]

    def run(
        self,
        task: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        advanced: Callable[[int, int], None] | None = None,
        workers: Sequence[str] | None = None,
    ) -> list[Any]:
        """Run ``task(*job)`` for every job on the workers and return the results in the order of the jobs.

        Parameters
        ----------
        task : callable
            A module-level function; run under `worker_slot`.
        jobs : sequence of tuple
        advanced : callable, optional
            Told ``(job number, units done)`` as tasks report with `report`, in this thread.
        workers : sequence of str, optional
            The worker to prefer for each job; another one takes it when that one is gone.
        """
        inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        topic = f"{_TOPIC}-{uuid.uuid4().hex}"
        if advanced is not None:
            self.client.subscribe_topic(topic, lambda event: inbox.put(("progress", event[1])))
        futures = []
        for number, job in enumerate(jobs):
            where = {"workers": [workers[number]], "allow_other_workers": True} if workers else {}
            future = self.client.submit(_run_task, task, job, topic if advanced else None, number, pure=False, **where)
            future.add_done_callback(lambda f: inbox.put(("done", f)))
            futures.append(future)
        results: dict[str, Any] = {}
        try:
            while len(results) < len(futures):
                kind, what = inbox.get()
                if kind == "progress":
                    if advanced is not None:
                        advanced(*what)
                elif what.status == "finished":
                    results[what.key] = what.result()
                elif what.key not in results:
                    raise _as_nomad_error(what)
        except KeyboardInterrupt as stop:
            _stop.set()
            self.client.cancel(futures, force=True)
            raise Interrupted("Stopped.") from stop
        except BaseException:
            self.client.cancel(futures, force=True)
            raise
        finally:
            if advanced is not None:
                self.client.unsubscribe_topic(topic)
        return [results[f.key] for f in futures]


def _as_nomad_error(future: Any) -> BaseException:
    error = future.exception() if future.status == "error" else None
    if isinstance(error, NomadError):
        return error
    if error is None:
        return ClusterError(f"A task was {future.status}: was the cluster closed? Start it again and resume.")
    failure = NomadError(f"A task failed on its worker with {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


_reporter = threading.local()


def report(units_done: int) -> None:
    """Tell the driver how far the running task is; dropped when it was told just now."""
    if _stop.is_set():
        raise Interrupted("Stopped.")
    topic = getattr(_reporter, "topic", None)
    now = time.monotonic()
    if topic is None or now - _reporter.last < _PROGRESS_SECONDS:
        return
    from distributed import get_worker

    _reporter.last = now
    get_worker().log_event(topic, (_reporter.number, units_done))


def _run_task(task: Callable[..., Any], job: tuple[Any, ...], topic: str | None, number: int) -> Any:
    _reporter.topic, _reporter.number, _reporter.last = topic, number, 0.0
    with _slot:
        if _stop.is_set():
            raise Interrupted("Stopped.")
        return task(*job)


def worker_threads() -> int:
    """Return the threads of the worker this task runs on."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


@contextmanager
def connect(client: Any = None, scheduler: str | None = None, n_workers: int | None = None) -> Iterator[Cluster]:
    """Give the cluster to work on, and close what was opened for it.

    Parameters
    ----------
    client : distributed.Client, optional
        Used as it is.
    scheduler : str, optional
        Address of a running scheduler.
    n_workers : int, optional
        Workers of the embedded cluster. One (the default) is this process itself with all its cores;
        several are processes that share the cores.

    Raises
    ------
    InputError
        `n_workers` is no number of workers.
    ClusterError
        The scheduler does not answer within ten seconds, or there is no worker.
    """
    _stop.clear()
    if n_workers is not None and n_workers < 1:
        raise InputError(f"n_workers={n_workers!r} is not accepted: give a whole number from 1, or None.")
    if client is not None:
        yield _checked(Cluster(client, in_process=False))
        return
    import distributed

    # Its annotations are partial; typed as Any here, once.
    Client: Any = distributed.Client
    LocalCluster: Any = distributed.LocalCluster

    if scheduler is not None:
        _check_address(scheduler)
        try:
            remote = Client(scheduler, timeout=ANSWER_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, TypeError) as error:  # TypeError: TLS without certificates
            raise ClusterError(
                f"The scheduler {scheduler!r} does not answer within {ANSWER_SECONDS} s ({error}): "
                "check the address and that it runs."
            ) from error
        with remote:
            yield _checked(Cluster(remote, in_process=False))
        return
    cores = len(os.sched_getaffinity(0))
    n_workers = n_workers or 1
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=max(1, cores // n_workers),
            processes=n_workers > 1,
            host="127.0.0.1" if n_workers > 1 else None,
            # No dashboard unless asked for: it costs a second of imports.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=None if n_workers == 1 else "auto",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        yield _checked(Cluster(own, in_process=n_workers == 1))


def _check_address(scheduler: str) -> None:
    """Refuse what is no address: a client that was half made says so again when it is thrown away."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise ClusterError(
            f"The scheduler {scheduler!r} is no address ({error}): give one such as tcp://127.0.0.1:8786."
        ) from error


def _checked(cluster: Cluster) -> Cluster:
    cluster.workers()
    return cluster
