"""The Dask cluster: the client given, or an embedded one; preflight, and running tasks with progress."""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nomad_dask.backends.choose import check_device
from nomad_dask.backends.gpu import devices
from nomad_dask.errors import ClusterError, InputError, Interrupted, NomadError, NomadWarning

ANSWER_SECONDS = 10
# Processes that import RAPIDS and make a CUDA context start slowly.
GPU_START_SECONDS = 120
# Of each GPU, taken at once by its memory pool, which grows when more is needed.
_POOL_SHARE = 0.5
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

    Attributes
    ----------
    device : {'cpu', 'gpu'}
        Where its workers compute.
    gpus : dict of str to Gpu
        The GPU of each worker that was there at the start, by address; none on CPUs.
    """

    def __init__(self, client: Any, in_process: bool) -> None:
        self.client = client
        self.in_process = in_process
        self.device = "cpu"
        self.gpus: dict[str, devices.Gpu] = {}

    def choose_device(self, device: str) -> None:
        """Ask every worker what it has, and settle where all of them compute.

        Raises
        ------
        ClusterError
            Workers lack a GPU that is wanted, or only some have one.
        """
        if device == "cpu":
            return
        found = self.client.run(devices.look_on_worker)
        self.device = devices.resolve(device, found)
        if self.device == "gpu":
            self.gpus = {address: what for address, what in found.items() if isinstance(what, devices.Gpu)}

    def gpu_bytes(self) -> int | None:
        """Return the free GPU memory that each worker can have; None on CPUs."""
        return devices.share_of_memory(self.gpus) if self.gpus else None

    def device_of(self, address: str) -> str:
        """Return what a worker computes on, for people."""
        return str(self.gpus.get(address, self.device.upper()))

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
def connect(
    client: Any = None,
    scheduler: str | None = None,
    n_workers: int | None = None,
    device: str = "cpu",
    here: bool = False,
) -> Iterator[Cluster]:
    """Give the cluster to work on, and close what was opened for it.

    Parameters
    ----------
    client : distributed.Client, optional
        Used as it is.
    scheduler : str, optional
        Address of a running scheduler.
    n_workers : int, optional
        Workers of the embedded cluster. On CPUs, one (the default) is this process itself with all its cores;
        several are processes that share the cores. On GPUs it is a process for each, by default for all.
    device : {'auto', 'cpu', 'gpu'}
        ``"auto"`` takes the GPUs where the workers have them, or where this process does.
    here : bool
        The vectors are in the memory of this process: where one GPU is all there is, the worker is this process,
        so that they need not leave it.

    Raises
    ------
    InputError
        `n_workers` is no number of workers, or `device` is not known or not to be had here.
    ClusterError
        The scheduler does not answer within ten seconds, there is no worker, or workers lack what `device` needs.
    """
    _stop.clear()
    check_device(device)
    if n_workers is not None and n_workers < 1:
        raise InputError(f"n_workers={n_workers!r} is not accepted: give a whole number from 1, or None.")
    if client is not None:
        yield _checked(Cluster(client, in_process=False), device)
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
            yield _checked(Cluster(remote, in_process=False), device)
        return
    on_gpu = _gpu_here(device)
    if on_gpu and not (here and n_workers in (None, 1) and _n_gpus() == 1):
        with _local_gpus(n_workers) as workers, Client(workers, set_as_default=False) as own:
            try:
                own.wait_for_workers(len(workers.worker_spec), timeout=GPU_START_SECONDS)
            except TimeoutError as error:
                raise _not_started(error) from error
            yield _checked(Cluster(own, in_process=False), "gpu")
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
        yield _checked(Cluster(own, in_process=n_workers == 1), "gpu" if on_gpu else "cpu")


def _n_gpus() -> int:
    from cupy.cuda.runtime import getDeviceCount

    return int(getDeviceCount())


def _gpu_here(device: str) -> bool:
    """Return whether an own cluster computes on the GPUs of this machine."""
    if device == "cpu":
        return False
    found = devices.look((*devices.PACKAGES, *devices.CLUSTER_PACKAGES))
    if isinstance(found, devices.Gpu):
        return True
    if device == "gpu":
        raise devices.refusal(found.lacks)
    if found.hidden:
        warnings.warn(
            f"There is a GPU, but {found.lacks}. The CPU is used; device='cpu' says so without this warning.",
            NomadWarning,
            stacklevel=2,
        )
    return False


def _local_gpus(n_workers: int | None) -> Any:
    """Return a cluster of one process a GPU on this machine."""
    import pynvml
    from dask_cuda import LocalCUDACluster
    from dask_cuda.utils import cuda_visible_devices

    try:
        visible = cuda_visible_devices(0).split(",")
        if n_workers is not None and n_workers > len(visible):
            raise InputError(
                f"n_workers={n_workers} is more than there are GPUs here, one worker each: give at most {len(visible)}."
            )
        n_workers = n_workers or len(visible)
        return LocalCUDACluster(
            CUDA_VISIBLE_DEVICES=visible,
            n_workers=n_workers,
            threads_per_worker=max(1, len(os.sched_getaffinity(0)) // n_workers),
            protocol="ucx" if n_workers > 1 and _has_ucx() else None,
            enable_cudf_spill=True,
            rmm_pool_size=_POOL_SHARE,
            rmm_allocator_external_lib_list=["cupy"],
            # A pool tells what is free in it only when it keeps count; we allocate too seldom to feel that.
            rmm_track_allocations=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=50,
        )
    except RuntimeError as error:  # of Dask's nanny
        raise _not_started(error) from error
    except pynvml.NVMLError as error:
        raise ClusterError(
            f"The GPUs cannot be asked through NVML ({error}): check nvidia-smi, give a client of GPU workers, "
            "or give device='cpu'."
        ) from error


def _has_ucx() -> bool:
    try:
        import distributed_ucxx  # noqa: F401 - Dask takes it up by its entry point
    except ImportError:
        return False
    return True


def _not_started(why: BaseException) -> ClusterError:
    """Say what keeps a worker from its GPU; it dies without a word when its memory pool cannot be had."""
    return ClusterError(
        f"The workers on the GPUs did not start ({why}). Each takes {_POOL_SHARE:.0%} of its GPU's memory at once: "
        "check with nvidia-smi that other processes leave that, name other GPUs in CUDA_VISIBLE_DEVICES, "
        "or give device='cpu'."
    )


def _check_address(scheduler: str) -> None:
    """Refuse what is no address: a client that was half made says so again when it is thrown away."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise ClusterError(
            f"The scheduler {scheduler!r} is no address ({error}): give one such as tcp://127.0.0.1:8786."
        ) from error


def _checked(cluster: Cluster, device: str) -> Cluster:
    cluster.workers()
    cluster.choose_device(device)
    return cluster
