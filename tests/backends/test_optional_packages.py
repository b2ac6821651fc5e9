"""What a machine computes on and reads with, by which packages it has: CuPy alone suffices for one GPU.

Each case is a process in which imports of the packages that are not there fail. Packages that are there are empty, but
for what is asked of CuPy about the devices.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
RAPIDS = ("cudf", "cuml", "dask_cuda", "kvikio", "raft_dask", "rmm")
CUPY = {
    "__init__.py": "from cupy import cuda\n",
    "cuda/__init__.py": "from cupy.cuda import runtime\n",
    "cuda/runtime.py": (
        "import os\n"
        "class CUDARuntimeError(RuntimeError): pass\n"
        "def getDeviceCount(): return int(os.environ['N_GPUS'])\n"
        "def getDevice(): return 0\n"
        "def getDeviceProperties(number): return {'name': b'H200', 'uuid': bytes(16), 'totalGlobalMem': 1}\n"
    ),
}
BLOCK = "import sys\nfor name in {blocked}: sys.modules[name] = None\n"
ASK = """
import json, logging, os, warnings
from nomad_dask.cluster.gpu_cluster import choose_local_workers
from nomad_dask.errors import InputError
lines = []
logger = logging.getLogger("nomad_dask")
logger.setLevel(logging.INFO)
logger.addHandler(type("Lines", (logging.Handler,), {"emit": lambda self, record: lines.append(record.getMessage())})())
answers = []
for device, n_gpus, n_workers, in_process in json.loads(sys.argv[1]):
    os.environ["N_GPUS"] = str(n_gpus)
    lines.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = choose_local_workers(device, n_workers, in_process)
        except InputError as error:
            answer = f"InputError: {error}"
    answers.append([answer, [str(w.message) for w in caught], list(lines)])
print(json.dumps(answers))
"""
MAP = """
import logging
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from tests.helpers.host_runtime import HostRuntime
PROCESS_RUNTIME.set(HostRuntime())
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
logging.getLogger("nomad_dask").setLevel(logging.INFO)
import numpy as np
from nomad_dask import NomadProjection
nomad = NomadProjection(device="auto", n_neighbors=5, n_epochs=3, random_state=0)
np.save(sys.argv[2], nomad.fit_transform(sys.argv[1]))
assert not {blocked} & {{name for name, module in sys.modules.items() if module is not None}}
"""


def run_without(blocked: set[str], folder: Path, code: str, *args: str) -> str:
    """Run code in a process that has no packages of the names, and packages in their place of all others."""
    packages = folder / "packages"
    for name in {"cupy", *RAPIDS} - blocked:
        for file, text in (CUPY if name == "cupy" else {"__init__.py": ""}).items():
            (packages / name / file).parent.mkdir(parents=True, exist_ok=True)
            (packages / name / file).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=sorted(blocked)) + code, *args],
        capture_output=True, text=True, check=False, timeout=900, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}", "N_GPUS": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout


def ask(blocked: set[str], folder: Path, *questions: list[Any]) -> list[Any]:
    """Return for (device, number of GPUs, n_workers, data in process): the choice, warnings, and lines of the log."""
    return list(json.loads(run_without(blocked, folder, ASK, json.dumps(questions))))


def test_cupy_alone_suffices_for_one_gpu(tmp_path):
    answers = ask(
        set(RAPIDS), tmp_path,
        ["auto", 1, None, False], ["gpu", 1, 1, True], ["gpu", 4, 1, False], ["auto", 4, None, False],
        ["gpu", 4, 2, False], ["cpu", 4, 3, False],
    )  # fmt: skip
    assert [answer for answer, _, _ in answers[:4]] == ["gpu"] * 4
    install = "install dask_cuda and rmm for more: pip install 'nomad-dask[gpu-cu13]'"
    assert [len(warned) for _, warned, _ in answers] == [0, 0, 0, 1, 0, 0]
    assert answers[3][1][0].startswith(f"One of 4 GPUs is used: {install}")
    assert answers[4][0].startswith(f"InputError: n_workers=2 is not accepted: give 1 for one GPU, or {install}")
    assert answers[5][0] == "cpu"


@pytest.mark.parametrize("missing", ["dask_cuda", "rmm"])
def test_several_gpus_need_both_packages(missing, tmp_path):
    ((chosen, warned, _),) = ask({missing}, tmp_path, ["auto", 2, None, False])
    assert chosen == "gpu"
    assert f"install {missing} for more" in warned[0]


def test_with_rapids_each_gpu_has_a_worker(tmp_path):
    answers = ask(
        set(), tmp_path,
        ["auto", 4, None, False], ["gpu", 4, 2, False], ["gpu", 1, None, False], ["gpu", 1, None, True],
        ["gpu", 2, None, True],
    )  # fmt: skip
    assert [answer for answer, _, _ in answers] == ["gpus", "gpus", "gpus", "gpu", "gpus"]
    assert not any(warned for _, warned, _ in answers)


def test_without_cupy_the_cpu_is_chosen_and_the_log_says_why(tmp_path):
    questions = [[device, 1, None, False] for device in ("auto", "gpu", "cpu")]
    (auto, gpu, none) = ask({"cupy"}, tmp_path, *questions)
    lacks = "CuPy is not installed: pip install 'nomad-dask[cupy-cu13]', or [cupy-cu12] where the driver is for CUDA 12"
    assert auto[0] == "cpu"
    assert auto[2] == [f"device='auto' computes on the CPU: no GPU was found ({lacks})"]
    assert gpu[0] == f"InputError: device='gpu' is not available here: {lacks}; or use device='cpu'."
    assert none == ["cpu", [], []]


def test_without_a_device_the_cpu_is_chosen(tmp_path):
    ((chosen, warned, lines),) = ask(set(RAPIDS), tmp_path, ["auto", 0, None, False])
    assert (chosen, warned) == ("cpu", [])
    assert "the driver reports no GPU" in lines[0]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_file_is_mapped_by_one_gpu_with_cupy_alone(kind, tmp_path):
    """On the host build, in this process: what is read, fitted and laid out needs no package of RAPIDS."""
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    if kind == "npy":
        np.save(tmp_path / "x.npy", x)
    else:
        rows = pa.FixedSizeListArray.from_arrays(x.ravel(), 6)
        pq.write_table(pa.table({"embedding": rows}), tmp_path / "x.parquet")
    code = MAP.format(blocked=set(RAPIDS))
    printed = run_without(set(RAPIDS), tmp_path, code, str(tmp_path / f"x.{kind}"), str(tmp_path / "map.npy"))
    positions = np.load(tmp_path / "map.npy")
    assert positions.shape == (300, 2)
    assert np.isfinite(positions).all()
    assert "on GPUs: 1 × host, one for each worker; reads .npy files by the host and Parquet by the host" in printed


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed: make test-rapids")
def test_the_gpu_backend_needs_no_package_but_cupy():
    code = (
        "import importlib, pkgutil\nimport nomad_dask.backends.gpu as backend\n"
        "for module in pkgutil.iter_modules(backend.__path__):\n"
        "    importlib.import_module(f'nomad_dask.backends.gpu.{module.name}')\n"
        "from nomad_dask.backends.devices import detect_gpu, detect_worker_gpu\n"
        "print(detect_gpu(with_memory=True)); print(detect_worker_gpu())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=list(RAPIDS)) + code],
        capture_output=True, text=True, check=True, timeout=900, cwd=ROOT,
    )  # fmt: skip
    assert "not installed" not in done.stdout
