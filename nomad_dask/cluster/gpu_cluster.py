"""The embedded cluster on the GPUs of this machine."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from nomad_dask.backends import devices
from nomad_dask.cluster.embedded import (
    MAIN_GUARD,
    PRELOAD,
    check_temporary_directory,
    check_worker_processes,
    worker_settings,
)
from nomad_dask.errors import ClusterError, InputError, NomadWarning

_LOG = logging.getLogger("nomad_dask")
# The driver's pool keeps this much free memory; more returns to the device at the next synchronization, where it can
# be measured. dask-cuda takes 0 for no limit.
_KEPT_BYTES = 1 << 30


def choose_local_workers(device: str, n_workers: int | None, data_in_process: bool) -> str:
    """Return which workers an embedded cluster has.

    Parameters
    ----------
    device : {'auto', 'cpu', 'gpu'}
    n_workers : int or None
    data_in_process : bool
        The vectors are in the memory of this process.

    Returns
    -------
    {'cpu', 'gpu', 'gpus'}
        Workers on CPUs, this process with its GPU, or a process for each GPU of this machine.

    Raises
    ------
    InputError
        `device` is ``"gpu"``, and there is no usable GPU; or there are more workers than can be started.
    """
    if device == "cpu":
        return "cpu"
    detected = devices.detect_gpu()
    if isinstance(detected, devices.NoGpu):
        if device == "gpu":
            raise devices.no_gpu_error(detected.lacks)
        _warn_of_hidden_gpu(detected)
        _LOG.info("device='auto' computes on %s", devices.describe_choice("cpu", {"": detected}))
        return "cpu"
    n_gpus = devices.n_local_gpus()
    missing = devices.missing_packages(devices.CLUSTER_PACKAGES)
    if missing:
        _check_one_worker(n_workers, n_gpus, f"{' and '.join(missing)} for more: {devices.INSTALL_RAPIDS}")
        return "gpu"
    return "gpu" if data_in_process and n_workers in (None, 1) and n_gpus == 1 else "gpus"


def _warn_of_hidden_gpu(detected: devices.NoGpu) -> None:
    if detected.hidden:
        warnings.warn(
            f"There is an NVIDIA driver, but {detected.lacks}. The CPU is used; device='cpu' selects it without this "
            "warning.",
            NomadWarning,
            stacklevel=4,
        )


def _check_one_worker(n_workers: int | None, n_gpus: int, remedy: str) -> None:
    """Refuse several workers, and warn if GPUs remain unused."""
    if n_workers is not None and n_workers > 1:
        raise InputError(f"n_workers={n_workers} is not accepted: give 1 for one GPU, or install {remedy}.")
    if n_gpus > 1 and n_workers is None:
        warnings.warn(
            f"One of {n_gpus} GPUs is used: install {remedy}. n_workers=1 selects one GPU without this warning.",
            NomadWarning,
            stacklevel=4,
        )


def start_gpu_cluster(n_workers: int | None) -> Any:
    """Start a cluster with one process per GPU of this machine, by default for all GPUs.

    Returns
    -------
    dask_cuda.LocalCUDACluster

    Raises
    ------
    InputError
        There are fewer GPUs than workers, or Dask's temporary directory cannot be used.
    ClusterError
        The workers do not start.
    """
    import pynvml
    from dask_cuda import LocalCUDACluster
    from dask_cuda.utils import cuda_visible_devices

    check_worker_processes()
    check_temporary_directory()
    try:
        visible = cuda_visible_devices(0).split(",")
        if n_workers is not None and n_workers > len(visible):
            raise InputError(
                f"n_workers={n_workers} is more than the number of GPUs, and each has one worker: "
                f"give at most {len(visible)}."
            )
        n_workers = n_workers or len(visible)
        with worker_settings():
            return LocalCUDACluster(
                CUDA_VISIBLE_DEVICES=visible,
                n_workers=n_workers,
                threads_per_worker=max(1, len(os.sched_getaffinity(0)) // n_workers),
                enable_cudf_spill=True,
                # The driver makes an array of any free pieces of memory; a pool of RMM's own needs one piece.
                rmm_async=True,
                rmm_release_threshold=_KEPT_BYTES,
                rmm_allocator_external_lib_list=["cupy"],
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                preload=PRELOAD,
                silence_logs=50,
            )
    except RuntimeError as error:  # raised by Dask's nanny
        raise gpus_not_started_error(error) from error
    except pynvml.NVMLError as error:
        raise ClusterError(
            f"The GPUs cannot be queried through NVML ({error}): check nvidia-smi, give a client of GPU workers, "
            "or give device='cpu'."
        ) from error


def gpus_not_started_error(reason: BaseException) -> ClusterError:
    """Return the error for workers that did not start; one that cannot create a CUDA context dies silently."""
    return ClusterError(
        f"The workers on the GPUs did not start ({reason}): check with nvidia-smi that other processes leave memory, "
        f"name other GPUs in CUDA_VISIBLE_DEVICES, or give device='cpu'. {MAIN_GUARD}."
    )
