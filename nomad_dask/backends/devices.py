"""Which GPU a process has, and whether a run computes on CPUs or GPUs: decided before anything runs."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_dask.backends.gpu.device_memory import unused_bytes
from nomad_dask.errors import ClusterError, InputError

CLUSTER_PACKAGES = ("dask_cuda", "rmm")
"""Packages with which an embedded cluster has a worker for each GPU; without them it has one."""
READING_PACKAGES = {"kvikio": ".npy files", "cudf": "Parquet"}
"""Packages that read files directly to the GPU, and which; without them, files are read on the host and uploaded."""
_INSTALL = "pip install 'nomad-dask[cupy-cu13]', or [cupy-cu12] where the driver is for CUDA 12"
INSTALL_RAPIDS = "pip install 'nomad-dask[gpu-cu13]', or [gpu-cu12] where the driver is for CUDA 12"
# Where the driver's kernel module is loaded.
_DRIVER = Path("/proc/driver/nvidia/version")
# Values of cudaError.
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100


@dataclass(frozen=True)
class Gpu:
    """The GPU that a process computes on.

    Attributes
    ----------
    name, uuid : str
        As reported by the driver.
    index : str
        Its entry in CUDA_VISIBLE_DEVICES, or its number if that is not set.
    total_bytes : int
    free_bytes : int
        0 if it was not requested: the request itself uses memory on the device.
    packages : tuple of str
        Those of `READING_PACKAGES` that the process has.
    """

    name: str
    uuid: str
    index: str
    total_bytes: int
    free_bytes: int = 0
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}, {self.uuid})"


@dataclass(frozen=True)
class NoGpu:
    """A process that cannot compute on a GPU.

    Attributes
    ----------
    lacks : str
        What is missing, and how to install it.
    hidden : bool
        Whether there is a driver, and only CuPy is missing.
    """

    lacks: str
    hidden: bool = False

    def __str__(self) -> str:
        return f"no GPU: {self.lacks}"


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return which packages are not installed in this process's environment."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def detect_gpu(with_memory: bool = False) -> Gpu | NoGpu:
    """Return the GPU of this process, or why it has none. It needs CuPy only.

    Parameters
    ----------
    with_memory : bool
        Whether to measure the free memory, which creates a CUDA context in this process.
    """
    try:
        import cupy
    except ImportError as error:
        reason = "CuPy is not installed" if error.name == "cupy" else f"CuPy cannot be imported ({error})"
        return NoGpu(f"{reason}: {_INSTALL}", hidden=_DRIVER.exists())
    cuda = cupy.cuda.runtime
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if cuda.getDeviceCount() == 0:
            return NoGpu(_describe_no_device(visible))
        number = cuda.getDevice()
        properties = cuda.getDeviceProperties(number)
        free = unused_bytes(cupy) if with_memory else 0
    except cuda.CUDARuntimeError as error:
        return NoGpu(_describe_cuda_error(error, cuda, visible))
    entries = visible.split(",") if visible else []
    return Gpu(
        name=properties["name"].decode(),
        uuid=_format_uuid(bytes(properties["uuid"])),
        index=entries[number].strip() if number < len(entries) else str(number),
        total_bytes=int(properties["totalGlobalMem"]),
        free_bytes=free,
        packages=tuple(name for name in READING_PACKAGES if not missing_packages([name])),
    )


def detect_worker_gpu() -> Gpu | NoGpu:
    """Return the GPU of a worker with its free memory, or why it has none; a runtime set by tests counts as a GPU."""
    from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME

    try:
        current = PROCESS_RUNTIME.get()
    except ClusterError:
        return detect_gpu(with_memory=True)  # reports what is missing
    if current.name == "cuda":
        return detect_gpu(with_memory=True)
    free = current.free_bytes()
    return Gpu(current.name, f"process {os.getpid()}", "none", total_bytes=free, free_bytes=free)


def _describe_no_device(visible: str | None) -> str:
    if visible is None:
        return "the driver reports no GPU (CUDA_VISIBLE_DEVICES is not set): check that nvidia-smi lists one"
    return f"the driver reports no GPU (CUDA_VISIBLE_DEVICES={visible!r}): set it to a GPU that nvidia-smi lists"


def _describe_cuda_error(error: Any, cuda: Any, visible: str | None) -> str:
    """Explain a failed CUDA call."""
    if error.status == _NO_DEVICE:
        return _describe_no_device(visible)
    if error.status == _INSUFFICIENT_DRIVER:
        installed, required = cuda.driverGetVersion(), cuda.runtimeGetVersion()
        if not installed:
            return f"there is no NVIDIA driver ({error}): install one for CUDA {required // 1000} or later"
        return (
            f"the NVIDIA driver is for CUDA {_format_version(installed)}, CuPy for CUDA {_format_version(required)} "
            f"({error}): install a newer driver, or the packages for CUDA {installed // 1000}"
        )
    return f"CUDA is not available ({error}): check nvidia-smi"


def _format_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _format_uuid(raw: bytes) -> str:
    text = raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def no_gpu_error(lacks: str) -> InputError:
    """Return the error for ``device='gpu'`` in a process that has no GPU."""
    return InputError(f"device='gpu' is not available here: {lacks}; or use device='cpu'.")


def resolve_device(device: str, found: Mapping[str, Gpu | NoGpu]) -> str:
    """Return the device of the workers of a cluster: ``"cpu"`` or ``"gpu"``.

    Parameters
    ----------
    device : {'auto', 'gpu'}
    found : mapping of str to Gpu or NoGpu
        The GPU of each worker, by address.

    Raises
    ------
    ClusterError
        A worker has no GPU although `device` is ``"gpu"``, or only some workers have one.
    """
    without = {address: gpu.lacks for address, gpu in sorted(found.items()) if isinstance(gpu, NoGpu)}
    if not without:
        return "gpu"
    if device == "auto":
        if len(without) == len(found):
            return "cpu"
        address, gpu = next((a, g) for a, g in sorted(found.items()) if isinstance(g, Gpu))
        raise ClusterError(
            f"Only {len(found) - len(without)} of {len(found)} workers have a GPU, such as {gpu} of {address}. "
            f"The others have none ({_list_workers(without)}): use device='cpu', or only workers with GPUs."
        )
    raise ClusterError(
        f"device='gpu' needs a GPU on every worker, {len(without)} of {len(found)} have none "
        f"({_list_workers(without)}): add GPUs to them, remove them, or use device='cpu'."
    )


def describe_choice(device: str, found: Mapping[str, Gpu | NoGpu]) -> str:
    """Return what the workers of a cluster compute on, and what was found that decides it: a line for the log.

    Parameters
    ----------
    device : {'cpu', 'gpu'}
        As chosen by `resolve_device`.
    found : mapping of str to Gpu or NoGpu
    """
    if device == "cpu":
        reasons = sorted({gpu.lacks for gpu in found.values() if isinstance(gpu, NoGpu)})
        return f"the CPU: no GPU was found ({'; '.join(reasons)})"
    gpus = [gpu for _, gpu in sorted(found.items()) if isinstance(gpu, Gpu)]
    names = ", ".join(f"{n} × {name}" for name, n in sorted(Counter(gpu.name for gpu in gpus).items()))
    readers = [
        f"{files} by {name if all(name in gpu.packages for gpu in gpus) else 'the host'}"
        for name, files in READING_PACKAGES.items()
    ]
    return f"GPUs: {names}, one for each worker; reads {' and '.join(readers)}"


def _list_workers(without: Mapping[str, str], max_named: int = 3) -> str:
    """Return the workers grouped by what they lack; at most `max_named` of each group by address."""
    workers: dict[str, list[str]] = {}
    for address, lacks in without.items():
        workers.setdefault(lacks, []).append(address)
    groups = []
    for lacks, addresses in workers.items():
        more = f" and {len(addresses) - max_named} more" if len(addresses) > max_named else ""
        groups.append(f"{', '.join(addresses[:max_named])}{more}: {lacks}")
    return "; ".join(groups)


def memory_share(found: Mapping[str, Gpu]) -> int:
    """Return the smallest free GPU memory of any worker; workers on the same GPU share it equally."""
    workers = Counter(gpu.uuid for gpu in found.values())
    return min(gpu.free_bytes // workers[gpu.uuid] for gpu in found.values())


def n_local_gpus() -> int:
    """Return the number of GPUs that are visible to this process."""
    from cupy.cuda.runtime import getDeviceCount

    return int(getDeviceCount())
