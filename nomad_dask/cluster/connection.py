"""Where the cluster comes from: a client that is given, a scheduler that runs, or an own cluster for one run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nomad_dask.backends import devices
from nomad_dask.backends.select import check_device
from nomad_dask.cluster.executor import GPU_START_SECONDS, Cluster
from nomad_dask.cluster.preflight import check_versions
from nomad_dask.errors import ClusterError, InputError, Interrupted, MissingInputError, NomadWarning

ANSWER_SECONDS = 10
# After this long without a heartbeat, an own scheduler ends a worker; it looks once in this time. Imports and
# compilation hold up heartbeats for seconds, our kernels do not.
WORKER_TTL_SECONDS = 60
# A worker in this process is as alive as its scheduler, also after the machine has slept.
_NEVER_SECONDS = 10 * 365 * 86_400
_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"
# Of each GPU, taken at once by its memory pool, which grows when more is needed.
_POOL_SHARE = 0.5
_GUARD = (
    "In a script, put what starts a run under `if __name__ == '__main__':`, because every worker process first "
    "imports the script"
)


@contextmanager
def connect(
    client: Any = None,
    scheduler: str | None = None,
    n_workers: int | None = None,
    device: str = "cpu",
    here: bool = False,
    scheduler_file: str | os.PathLike[str] | None = None,
) -> Iterator[Cluster]:
    """Give the cluster to work on, and close what was opened for it.

    Parameters
    ----------
    client : distributed.Client, optional
        Used as it is.
    scheduler : str, optional
        Address of a running scheduler. For ``tls://`` the certificates are those of Dask's configuration.
    n_workers : int, optional
        Workers of the embedded cluster. On CPUs, one (the default) is this process itself with all its cores;
        several are processes that share the cores. On GPUs it is a process for each, by default for all.
    device : {'auto', 'cpu', 'gpu'}
        ``"auto"`` takes the GPUs where the workers have them, or where this process does.
    here : bool
        The vectors are in the memory of this process: where one GPU is all there is, the worker is this process,
        so that they need not leave it.
    scheduler_file : path-like, optional
        File in which a running scheduler has written its address (``dask scheduler --scheduler-file``).

    Raises
    ------
    InputError
        `n_workers` is no number of workers, or `device` is not known or not to be had here.
    MissingInputError
        There is no `scheduler_file`.
    ClusterError
        The scheduler does not answer within ten seconds, there is no worker, workers have another version or lack
        what `device` needs, or workers of an own cluster do not start.
    """
    check_device(device)
    if n_workers is not None and n_workers < 1:
        raise InputError(f"n_workers={n_workers!r} is not accepted: give a whole number from 1, or None.")
    if client is not None:
        with _checked(Cluster(client, in_process=False), device) as cluster:
            yield cluster
        return
    if scheduler is None and scheduler_file is not None:
        scheduler = _address_in(Path(scheduler_file))
    if scheduler is not None:
        with _remote(scheduler) as remote, _checked(Cluster(remote, in_process=False), device) as cluster:
            yield cluster
        return
    on_gpu = _gpu_here(device)
    if on_gpu and not (here and n_workers in (None, 1) and devices.n_local_gpus() == 1):
        _refuse_while_main_is_imported()
        workers = _local_gpus(n_workers)
        with _client_of(workers) as own:
            try:
                own.wait_for_workers(len(workers.worker_spec), timeout=GPU_START_SECONDS)
            except TimeoutError as error:
                raise _gpus_not_started(error) from error
            with _checked(Cluster(own, in_process=False), "gpu") as cluster:
                yield cluster
        return
    n_workers = n_workers or 1
    in_process, device = n_workers == 1, "gpu" if on_gpu else "cpu"
    with _client_of(_local(n_workers)) as own, _checked(Cluster(own, in_process), device) as cluster:
        yield cluster


@contextmanager
def _checked(cluster: Cluster, device: str) -> Iterator[Cluster]:
    """Check the workers of a cluster, and give them their state until the end of the context."""
    from nomad_dask.cluster.worker_plugin import registered_plugin

    cluster.workers()
    check_versions(cluster)
    cluster.choose_device(device)
    with registered_plugin(cluster.client):
        yield cluster


@contextmanager
def _remote(scheduler: str) -> Iterator[Any]:
    """Give a client of a running scheduler."""
    import distributed

    _check_address(scheduler)
    # Its annotations are partial; typed as Any here, once.
    Client: Any = distributed.Client
    try:
        client = Client(scheduler, timeout=ANSWER_SECONDS, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"The scheduler {scheduler!r} does not answer within {ANSWER_SECONDS} s ({error}): "
            "check the address and that it runs."
        ) from error
    with client:
        yield client


@contextmanager
def _client_of(cluster: Any) -> Iterator[Any]:
    """Give a client of an own cluster, and close both; a second Ctrl-C ends the workers by force."""
    import dask.config
    import distributed

    Client: Any = distributed.Client
    try:
        # So long after it has lost a worker, Dask closes the worker's nanny if there is none at that moment:
        # because it died again, or because the machine is slow to start one.
        with _closed(cluster, cluster), dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}):
            try:
                client = Client(cluster, set_as_default=False)
            except OSError as error:
                raise _too_busy(f"The scheduler of the own cluster did not answer ({_told(error)})") from error
            with _closed(client, cluster):
                yield client
    except Interrupted:
        raise
    except KeyboardInterrupt:
        _kill_workers(cluster)
        raise


@contextmanager
def _closed(what: Any, cluster: Any) -> Iterator[None]:
    """Close a cluster or its client in the end; what came of the run stands, however long Dask takes for that."""
    try:
        yield
    finally:
        try:
            what.close()
        except TimeoutError as error:
            _kill_workers(cluster)
            warnings.warn(
                f"The own cluster did not close in time ({_told(error)}); its workers were killed.",
                NomadWarning,
                stacklevel=2,
            )


def _told(error: BaseException) -> str:
    """Return what an error says; some of Dask's have no words."""
    return str(error) or type(error).__name__


def _too_busy(what: str) -> ClusterError:
    return ClusterError(
        f"{what}: is the machine very busy, or short of memory? Run the same again then, or with fewer workers."
    )


def _kill_workers(cluster: Any) -> None:
    for worker in list(cluster.workers.values()):
        pid = getattr(worker, "pid", None)  # of a nanny; a worker in this process has none
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _local(n_workers: int) -> Any:
    """Return a cluster of worker processes that share the cores, or for one worker, of this process."""
    import dask.config
    import distributed

    LocalCluster: Any = distributed.LocalCluster
    cores = len(os.sched_getaffinity(0))
    several = n_workers > 1
    if several:
        _refuse_while_main_is_imported()
    # Dask has workers give freed memory back at once, to take it anew in the next epoch: a third of their time.
    environment = {k: v for k, v in dask.config.get(_ENVIRONMENT).items() if k != "MALLOC_TRIM_THRESHOLD_"}
    try:
        # Its profiler stops them a hundred times a second.
        with dask.config.set({_ENVIRONMENT: environment, "distributed.worker.profile.enabled": False}):
            return LocalCluster(
                n_workers=n_workers,
                threads_per_worker=max(1, cores // n_workers),
                processes=several,
                host="127.0.0.1" if several else None,
                # No dashboard unless asked for: it costs a second of imports.
                dashboard_address="127.0.0.1:0",
                worker_class=None if several else _worker_in_this_process(),
                scheduler_kwargs={"dashboard": False, "worker_ttl": WORKER_TTL_SECONDS if several else _NEVER_SECONDS},
                memory_limit="auto" if several else None,
                preload=["nomad_dask.cluster.preload"] if several else [],
                silence_logs=50,
            )
    except TimeoutError as error:
        raise _too_busy(f"The {n_workers} worker processes did not start in time ({_told(error)})") from error
    except RuntimeError as error:  # of Dask's nanny
        raise ClusterError(
            f"The {n_workers} worker processes did not start ({error}). {_GUARD}. "
            "Otherwise see what they have written above."
        ) from error


def _worker_in_this_process() -> Any:
    from distributed import Worker

    class LoopbackWorker(Worker):
        """A worker whose HTTP server, which has no host to go by in one process, is not open to the network."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more | {"dashboard_address": "127.0.0.1:0"})

    return LoopbackWorker


def _refuse_while_main_is_imported() -> None:
    """Refuse, in a process that was just started and still imports the main script, to start others from there."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ClusterError(f"This is a worker process that imports the script of its parent. {_GUARD}.")


def _gpu_here(device: str) -> bool:
    """Return whether an own cluster computes on the GPUs of this machine."""
    if device == "cpu":
        return False
    found = devices.detect_gpu((*devices.PACKAGES, *devices.CLUSTER_PACKAGES))
    if isinstance(found, devices.Gpu):
        return True
    if device == "gpu":
        raise devices.no_gpu_error(found.lacks)
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
        raise _gpus_not_started(error) from error
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


def _gpus_not_started(why: BaseException) -> ClusterError:
    """Say what keeps a worker from its GPU; it dies without a word when its memory pool cannot be had."""
    return ClusterError(
        f"The workers on the GPUs did not start ({why}). Each takes {_POOL_SHARE:.0%} of its GPU's memory at once: "
        "check with nvidia-smi that other processes leave that, name other GPUs in CUDA_VISIBLE_DEVICES, "
        f"or give device='cpu'. {_GUARD}."
    )


def _check_address(scheduler: str) -> None:
    """Refuse what cannot work: a client that was half made says so again when it is thrown away."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise ClusterError(
            f"The scheduler {scheduler!r} is no address ({error}): give one such as tcp://127.0.0.1:8786."
        ) from error
    if scheduler.startswith("tls://"):
        _check_certificates(scheduler)


def _check_certificates(scheduler: str) -> None:
    import dask.config
    from distributed import security

    Security: Any = security.Security
    if dask.config.get("distributed.client.security-loader", None):
        return  # it makes them for this address
    give = (
        "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to files, or the same in Dask's configuration, "
        "or give a client made with security="
    )
    try:
        context = Security().get_connection_args("client")["ssl_context"]
    except (OSError, ValueError) as error:  # of which an SSLError is one
        raise ClusterError(
            f"The certificates for the scheduler {scheduler!r} cannot be used ({error}): {give}."
        ) from error
    if context is None:
        raise ClusterError(f"The scheduler {scheduler!r} needs certificates, and Dask knows none: {give}.")


def _address_in(file: Path) -> str:
    """Return the address that a scheduler has written into a file."""
    try:
        return str(json.loads(file.read_text())["address"])
    except FileNotFoundError as error:
        raise MissingInputError(
            f"There is no scheduler file {str(file)!r}: start `dask scheduler --scheduler-file {file}` first."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"The scheduler file {str(file)!r} cannot be read ({type(error).__name__}: {error}): give the file that "
            "`dask scheduler --scheduler-file` has written."
        ) from error
