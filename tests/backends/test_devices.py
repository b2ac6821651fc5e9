"""Where a map is computed: the choice of the device, and errors when a GPU is not available.

Also runs with RAPIDS installed, where something else is missing: `make test-rapids`.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends import devices
from nomad_dask.backends.devices import (
    Gpu,
    NoGpu,
    describe_choice,
    detect_gpu,
    detect_worker_gpu,
    memory_share,
    resolve_device,
)
from nomad_dask.backends.memory_model import LIBRARY_BYTES
from nomad_dask.backends.select import BackendCache
from nomad_dask.callbacks import ClusterJoined, ShardPlaced
from nomad_dask.callbacks.progress_bars import progress_bars
from nomad_dask.cluster import connect
from nomad_dask.cluster.gpu_cluster import choose_local_workers
from nomad_dask.errors import ClusterError, InputError, NomadWarning, ResourceError
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.planning.feasibility import check_resources
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes

CUPY = importlib.util.find_spec("cupy") is not None
HERE = detect_gpu()
without_gpu = pytest.mark.skipif(isinstance(HERE, Gpu), reason="there is a GPU here")
LACKS = r"there is no NVIDIA driver \(cudaErrorInsufficientDriver" if CUPY else "CuPy is not installed: pip install"
H100 = Gpu("NVIDIA H100", "GPU-01", "0", 80 << 30, 70 << 30)
NOTHING = NoGpu("CuPy is not installed: pip install it")

whats = st.sampled_from([H100, NOTHING])


# --- the GPU of a process


@without_gpu
def test_what_is_missing_is_reported():
    for found in (detect_gpu(), detect_gpu(with_memory=True), detect_worker_gpu()):
        assert isinstance(found, NoGpu)
        assert re.match(LACKS, found.lacks)
        assert not found.hidden


@without_gpu
def test_a_requested_gpu_that_is_not_available_is_an_error():
    with pytest.raises(InputError, match=rf"device='gpu' is not available here: {LACKS}.*or use device='cpu'\.$"):
        make_map(blobs(300), n_epochs=1, device="gpu")
    with pytest.raises(InputError, match="is not available here"), connect(device="gpu", n_workers=2):
        pass


@without_gpu
def test_the_backend_needs_a_gpu():
    with pytest.raises(ClusterError, match="device='gpu'"), BackendCache().use("gpu", 1):
        pass


@pytest.mark.parametrize("device", ["tpu", "", "GPU", "cuda:0"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(InputError, match="is not accepted: give one of auto, cpu, gpu") as caught:
        make_map(blobs(300), n_epochs=1, device=device)
    assert repr(device) in str(caught.value)


@without_gpu
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_auto_is_the_cpu(device):
    with connect(device=device) as cluster:
        assert cluster.device == "cpu"
        assert cluster.gpus == {}
        assert cluster.gpu_bytes() is None


def test_the_cpu_imports_no_gpu_library():
    code = (
        "import sys\nfrom nomad_dask.cluster import connect\n"
        "with connect(device='cpu') as c: assert c.device == 'cpu'\n"
        "assert not {'cupy', 'cuml', 'cudf', 'dask_cuda'} & set(sys.modules)"  # RMM is imported by Dask itself
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@without_gpu
def test_workers_without_a_gpu_are_named():
    with worker_processes(2) as client:
        addresses = sorted(client.scheduler_info()["workers"])
        message = rf"needs a GPU on every worker, 2 of 2 have none \({', '.join(addresses)}: {LACKS}"
        with pytest.raises(ClusterError, match=message), connect(client=client, device="gpu"):
            pass
        with pytest.raises(ClusterError, match=message):
            make_map(blobs(300), n_epochs=1, device="gpu", client=client)
        with connect(client=client, device="auto") as cluster:
            assert cluster.device == "cpu"


# --- one device for all workers


@given(found=st.dictionaries(st.text("abc", min_size=1), whats, min_size=1), device=st.sampled_from(["auto", "gpu"]))
def test_all_workers_compute_on_the_same_device_or_the_run_is_refused(found, device):
    have = [isinstance(what, Gpu) for what in found.values()]
    if all(have):
        assert resolve_device(device, found) == "gpu"
    elif device == "auto" and not any(have):
        assert resolve_device(device, found) == "cpu"
    else:
        with pytest.raises(ClusterError, match=r"use device='cpu'"):
            resolve_device(device, found)


def test_mixed_workers_are_named_with_what_they_lack():
    found = {"tcp://b:2": NOTHING, "tcp://a:1": H100, "tcp://c:3": NOTHING}
    with pytest.raises(ClusterError) as caught:
        resolve_device("auto", found)
    assert str(caught.value) == (
        "Only 1 of 3 workers have a GPU, such as GPU 0 (NVIDIA H100, GPU-01) of tcp://a:1. The others have none "
        "(tcp://b:2, tcp://c:3: CuPy is not installed: pip install it): use device='cpu', or only workers with GPUs."
    )


def test_of_many_workers_without_a_gpu_a_few_are_named():
    found = {f"tcp://{i}": NOTHING for i in range(9)}
    with pytest.raises(ClusterError, match=r"9 of 9 have none \(tcp://0, tcp://1, tcp://2 and 6 more: CuPy"):
        resolve_device("gpu", found)


def test_the_choice_is_described_with_what_reads_the_files():
    full, half = (replace(H100, packages=packages) for packages in (("kvikio", "cudf"), ("cudf",)))
    assert describe_choice("gpu", {"a": full, "b": full}) == (
        "GPUs: 2 × NVIDIA H100, one for each worker; reads .npy files by kvikio and Parquet by cudf"
    )
    assert describe_choice("gpu", {"a": full, "b": half}).endswith(".npy files by the host and Parquet by cudf")
    assert describe_choice("gpu", {"a": H100}).endswith(".npy files by the host and Parquet by the host")
    assert describe_choice("cpu", {"a": NOTHING, "b": NOTHING}) == (
        "the CPU: no GPU was found (CuPy is not installed: pip install it)"
    )


@without_gpu
def test_the_log_says_why_workers_compute_on_the_cpu(caplog):
    caplog.set_level("INFO", logger="nomad_dask")
    event_log = EventLog()
    with worker_processes(1) as client:
        make_map(blobs(300), n_epochs=1, device="auto", client=client, emit=event_log)
    (joined,) = event_log.of(ClusterJoined)
    assert re.match(rf"the CPU: no GPU was found \({LACKS}", joined.device)
    assert f"device='auto' computes on {joined.device}" in caplog.messages


@pytest.mark.skipif(CUPY, reason="CuPy is installed")
def test_a_driver_without_cupy_is_worth_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    with pytest.warns(NomadWarning, match=rf"^There is an NVIDIA driver, but {LACKS}.*The CPU is used"):
        assert choose_local_workers("auto", None, False) == "cpu"


def test_workers_on_one_gpu_share_its_memory():
    other = Gpu("NVIDIA H100", "GPU-02", "1", 80 << 30, 60 << 30)
    assert memory_share({"a": H100}) == 70 << 30
    assert memory_share({"a": H100, "b": other}) == 60 << 30
    assert memory_share({"a": H100, "b": H100, "c": other}) == 35 << 30


# --- memory, and events


def test_a_plan_that_does_not_fit_on_the_gpu_is_refused():
    from nomad_dask.params import Params
    from nomad_dask.planning.planner import make_plan
    from tests.planning.test_plan import GIB, Shape

    plan = make_plan(Shape(100_000_000, 768), Params(), 1, 512 * GIB)
    needed = estimate_resources(plan)
    check_resources(needed, 512 * GIB, 1 << 60, needed.device_bytes)
    check_resources(needed, 512 * GIB, 1 << 60, None)
    with pytest.raises(ResourceError, match=r": 4,096 bytes are missing\. .*n_shards.*n_neighbors") as caught:
        check_resources(needed, 512 * GIB, 1 << 60, needed.device_bytes - 4096)
    assert caught.value.exit_code == 3


def test_gpu_memory_depends_on_rows_shards_and_neighbors():
    from nomad_dask.params import Params
    from nomad_dask.planning.planner import make_plan
    from tests.planning.test_plan import GIB, Shape

    def needed(n: int, n_workers: int, **settings: int) -> int:
        return estimate_resources(make_plan(Shape(n, 64), Params(**settings), n_workers, 64 * GIB)).device_bytes

    assert needed(10_000_000, 1) < needed(50_000_000, 1) < needed(50_000_000, 1, n_neighbors=30)
    assert needed(50_000_000, 4) < needed(50_000_000, 1)
    # Shards of one worker are on its GPU at the same time.
    assert needed(50_000_000, 1, n_shards=4) > 2 * needed(50_000_000, 4, n_shards=4)
    # Positions, velocities and edges of every row are there at least.
    assert needed(50_000_000, 1) > 50_000_000 * (3 * 8 + 2 * 15 * 8)


@pytest.mark.parametrize("limit", [None, 4 << 30])
def test_the_host_memory_of_a_process_on_a_gpu_is_not_all_for_the_stages(limit):
    """Libraries, their buffers, and what is pinned: 64 MiB twice in both directions, 16 MiB for each of 16 threads."""
    from nomad_dask.cluster.executor import WorkerInfo
    from nomad_dask.pipeline.setup import worker_memory

    workers = [WorkerInfo("a", 1, 16 << 30), WorkerInfo("b", 1, 8 << 30)]
    left = {
        device: worker_memory(SimpleNamespace(workers=lambda: workers, in_process=False, device=device), limit)
        for device in ("cpu", "gpu")
    }
    assert left["cpu"] == (limit or 8 << 30)
    taken = left["cpu"] - left["gpu"] - LIBRARY_BYTES
    pinned = 2 * 2 * (64 << 20) + 16 * (16 << 20)
    assert pinned < taken <= pinned + (512 << 20)  # the rest is a CUDA context


def test_the_device_of_every_shard_is_reported():
    event_log = EventLog()
    with worker_processes(2) as client:
        addresses = sorted(client.scheduler_info()["workers"])
        make_map(blobs(1000), n_shards=2, n_epochs=2, client=client, device="cpu", emit=event_log)
    placed = event_log.of(ShardPlaced)
    assert [(p.shard, p.worker, p.device) for p in placed] == [(0, addresses[0], "CPU"), (1, addresses[1], "CPU")]


def test_the_log_of_a_verbose_run_names_the_gpu_of_a_shard():
    written = io.StringIO()
    with progress_bars(written, verbose=True) as listen:
        listen(ShardPlaced(3, "tcp://a:1", str(H100)))
    assert written.getvalue() == "shard 3: on tcp://a:1, GPU 0 (NVIDIA H100, GPU-01)\n"


def test_the_log_of_a_verbose_run_says_what_was_chosen():
    written = io.StringIO()
    with progress_bars(written, verbose=True) as listen:
        listen(ClusterJoined(2, None))
        listen(ClusterJoined(2, None, "GPUs: 2 × NVIDIA H100"))
        listen(ClusterJoined(2, "http://a:8787"))
    assert written.getvalue() == "computing on GPUs: 2 × NVIDIA H100\nDask dashboard: http://a:8787\n"


@pytest.mark.gpu
@pytest.mark.skipif(not isinstance(HERE, Gpu), reason="there is no GPU here")
def test_on_a_gpu_a_map_is_computed_there():
    event_log = EventLog()
    result = make_map(blobs(5000), n_epochs=50, device="gpu", emit=event_log)
    assert np.isfinite(result.positions).all()
    (placed,) = event_log.of(ShardPlaced)
    assert isinstance(HERE, Gpu)
    assert HERE.uuid in placed.device
    assert str(os.environ.get("CUDA_VISIBLE_DEVICES", "0")).split(",")[0] in placed.device
