"""Which GPU a process has, and whether a run computes on CPUs or GPUs: decided before anything runs."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nomad_dask.backends.gpu.device_memory import device_free_bytes
from nomad_dask.errors import ClusterError, InputError

# What the GPU backend imports on a worker, and what an own cluster of GPU workers needs beside.
PACKAGES = ("cupy", "cuml", "cudf")
CLUSTER_PACKAGES = ("dask_cuda", "rmm")
_INSTALL = "pip install 'nomad-dask[gpu-cu13]', or [gpu-cu12] where the driver is for CUDA 12"
# Of cudaError.
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100


@dataclass(frozen=True)
class Gpu:
    """The GPU that a process computes on.

    Attributes
    ----------
    name, uuid : str
        As the driver says them.
    index : str
        Its entry in CUDA_VISIBLE_DEVICES; its number where that is not set.
    total_bytes : int
    free_bytes : int
        0 when it was not asked: asking takes up memory on the device.
    """

    name: str
    uuid: str
    index: str
    total_bytes: int
    free_bytes: int = 0

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}, {self.uuid})"


@dataclass(frozen=True)
class NoGpu:
    """A process that cannot compute on a GPU.

    Attributes
    ----------
    lacks : str
        What is missing, and how to get it.
    hidden : bool
        Whether there is a GPU and a driver, and only packages are missing.
    """

    lacks: str
    hidden: bool = False

    def __str__(self) -> str:
        return f"no GPU: {self.lacks}"


def detect_gpu(packages: tuple[str, ...] = PACKAGES, with_memory: bool = False) -> Gpu | NoGpu:
    """Return what this process has.

    Parameters
    ----------
    packages : tuple of str
        What must be installed for a GPU to be of use.
    with_memory : bool
        Also ask how much memory is free, which makes a CUDA context in this process.
    """
    try:
        import cupy
    except ImportError as error:
        why = "CuPy is not installed" if error.name == "cupy" else f"CuPy cannot be imported ({error})"
        return NoGpu(f"{why}: {_INSTALL}")
    cuda = cupy.cuda.runtime
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if cuda.getDeviceCount() == 0:
            return NoGpu(_no_device(visible))
        number = cuda.getDevice()
        properties = cuda.getDeviceProperties(number)
        free = device_free_bytes(cupy, reserved_is_free=True) if with_memory else 0
    except cuda.CUDARuntimeError as error:
        return NoGpu(_no_answer(error, cuda, visible))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        return NoGpu(f"{', '.join(missing)} {are} not installed: {_INSTALL}", hidden=True)
    entries = visible.split(",") if visible else []
    return Gpu(
        name=properties["name"].decode(),
        uuid=_uuid(bytes(properties["uuid"])),
        index=entries[number].strip() if number < len(entries) else str(number),
        total_bytes=int(properties["totalGlobalMem"]),
        free_bytes=free,
    )


def detect_worker_gpu() -> Gpu | NoGpu:
    """Return what a worker has, its free memory too; the runtime of this process may stand for a GPU."""
    from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME

    try:
        current = PROCESS_RUNTIME.get()
    except ClusterError:
        return detect_gpu(with_memory=True)  # which says what is missing
    if current.name == "cuda":
        return detect_gpu(with_memory=True)
    free = current.free_bytes()
    return Gpu(current.name, f"process {os.getpid()}", "none", total_bytes=free, free_bytes=free)


def _no_device(visible: str | None) -> str:
    if visible is None:
        return "the driver shows no GPU (CUDA_VISIBLE_DEVICES is not set): check that nvidia-smi lists one"
    return f"the driver shows no GPU (CUDA_VISIBLE_DEVICES={visible!r}): name one there that nvidia-smi lists"


def _no_answer(error: Any, cuda: Any, visible: str | None) -> str:
    """Say what a CUDA call that failed means."""
    if error.status == _NO_DEVICE:
        return _no_device(visible)
    if error.status == _INSUFFICIENT_DRIVER:
        has, needs = cuda.driverGetVersion(), cuda.runtimeGetVersion()
        if not has:
            return f"there is no NVIDIA driver ({error}): install one for CUDA {needs // 1000} or later"
        return (
            f"the NVIDIA driver is for CUDA {_version(has)}, CuPy for CUDA {_version(needs)} ({error}): "
            f"install a newer driver, or the packages for CUDA {has // 1000}"
        )
    return f"CUDA does not answer ({error}): check nvidia-smi"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def no_gpu_error(lacks: str) -> InputError:
    """Return the error for ``device='gpu'`` in a process that has no GPU."""
    return InputError(f"device='gpu' cannot be had here: {lacks}; or give device='cpu'.")


def resolve_device(device: str, found: Mapping[str, Gpu | NoGpu]) -> str:
    """Return where the workers of a cluster compute: ``"cpu"`` or ``"gpu"``.

    Parameters
    ----------
    device : {'auto', 'gpu'}
    found : mapping of str to Gpu or NoGpu
        What every worker has, by address.

    Raises
    ------
    ClusterError
        A worker has no GPU where one is wanted, or only some have one.
    """
    without = {address: what.lacks for address, what in sorted(found.items()) if isinstance(what, NoGpu)}
    if not without:
        return "gpu"
    if device == "auto":
        if len(without) == len(found):
            return "cpu"
        address, gpu = next((a, what) for a, what in sorted(found.items()) if isinstance(what, Gpu))
        raise ClusterError(
            f"Only {len(found) - len(without)} of {len(found)} workers have a GPU, such as {gpu} of {address}. "
            f"The others have none ({_listed(without)}): give device='cpu', or workers with GPUs only."
        )
    raise ClusterError(
        f"device='gpu' needs a GPU on every worker, {len(without)} of {len(found)} have none ({_listed(without)}): "
        "give GPUs to them, leave them out, or give device='cpu'."
    )


def _listed(without: Mapping[str, str], most: int = 3) -> str:
    """Name the workers that lack the same thing together, and no more than a few of them."""
    workers: dict[str, list[str]] = {}
    for address, lacks in without.items():
        workers.setdefault(lacks, []).append(address)
    said = []
    for lacks, addresses in workers.items():
        more = f" and {len(addresses) - most} more" if len(addresses) > most else ""
        said.append(f"{', '.join(addresses[:most])}{more}: {lacks}")
    return "; ".join(said)


def memory_share(found: Mapping[str, Gpu]) -> int:
    """Return the free GPU memory of the worker that has the least; workers on one GPU share it evenly."""
    workers = Counter(gpu.uuid for gpu in found.values())
    return min(gpu.free_bytes // workers[gpu.uuid] for gpu in found.values())


def n_local_gpus() -> int:
    """Return the number of GPUs that CUDA shows to this process."""
    from cupy.cuda.runtime import getDeviceCount

    return int(getDeviceCount())
