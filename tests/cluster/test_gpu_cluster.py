"""The embedded cluster on GPUs, with a cluster of CPU processes in place of dask-cuda's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import dask.config
import pytest
from distributed import LocalCluster

from nomad_dask.cluster import connect
from nomad_dask.cluster.embedded import embedded_client
from nomad_dask.cluster.gpu_cluster import start_gpu_cluster
from nomad_dask.errors import InputError

VISIBLE = "0,GPU-5e3f"


class StandIn(LocalCluster):
    """Takes what dask-cuda's cluster takes for GPUs, and starts processes without any."""

    def __init__(
        self,
        CUDA_VISIBLE_DEVICES: list[str],
        enable_cudf_spill: bool,
        rmm_async: bool,
        rmm_release_threshold: int,
        rmm_allocator_external_lib_list: list[str],
        preload: list[str] | None = None,
        **options: Any,
    ) -> None:
        self.visible = CUDA_VISIBLE_DEVICES
        # dask-cuda adds its own.
        super().__init__(processes=True, preload=[*(preload or []), "json"], **options)


@pytest.fixture
def dask_cuda() -> Iterator[None]:
    package, utils, pynvml = ModuleType("dask_cuda"), ModuleType("dask_cuda.utils"), ModuleType("pynvml")
    package.__dict__["LocalCUDACluster"] = StandIn
    utils.__dict__["cuda_visible_devices"] = lambda number: VISIBLE
    pynvml.__dict__["NVMLError"] = type("NVMLError", (Exception,), {})
    with pytest.MonkeyPatch.context() as patch:
        for module in (package, utils, pynvml):
            patch.setitem(sys.modules, module.__name__, module)
        yield


def describe_process() -> dict[str, Any]:
    """Return what a worker's process is set to."""
    return {
        "ignores Ctrl-C": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "profiles": dask.config.get("distributed.worker.profile.enabled"),
        "tick": dask.config.get("distributed.admin.tick.interval"),
        "trims": os.environ.get("MALLOC_TRIM_THRESHOLD_"),
    }


def test_workers_are_set_as_those_on_cpus(dask_cuda, monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # clusters of Dask's own leave it behind
    with connect(n_workers=2) as cluster:
        on_cpus = list(cluster.client.run(describe_process).values())
    assert on_cpus == 2 * [{"ignores Ctrl-C": True, "profiles": False, "tick": "1s", "trims": None}]
    with embedded_client(partial(start_gpu_cluster, None)) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.cluster.visible == VISIBLE.split(",")
        assert list(client.run(describe_process).values()) == on_cpus


def test_workers_are_connected_by_tcp_where_ucx_is_installed_too(dask_cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed_ucxx", ModuleType("distributed_ucxx"))
    with embedded_client(partial(start_gpu_cluster, None)) as client:
        client.wait_for_workers(2, timeout=60)
        addresses = [client.scheduler.address, *client.scheduler_info()["workers"]]
    assert [address.split("://")[0] for address in addresses] == 3 * ["tcp"]


def test_more_workers_than_gpus_are_refused(dask_cuda):
    with pytest.raises(InputError, match=r"n_workers=3 is more than the number of GPUs.*at most 2"):
        start_gpu_cluster(3)


def test_a_temporary_directory_that_is_none_is_refused(dask_cuda, tmp_path):
    missing = str(tmp_path / "missing")
    with dask.config.set({"temporary-directory": missing}), pytest.raises(InputError, match="temporary-directory"):
        start_gpu_cluster(None)
