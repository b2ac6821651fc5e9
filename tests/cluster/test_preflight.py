"""Checks before a run: versions, the workspace and the data, as every worker sees them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nomad_dask.cluster import connect
from nomad_dask.errors import ClusterError
from tests.helpers.processes import Scheduler, scheduler_process
from tests.helpers.runs import blobs, make_map

pytestmark = pytest.mark.timeout(120)


@cache
def no_namespaces() -> str | None:
    """Return why processes cannot have private mounts here, or None."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"mount namespaces are not permitted: {done.stderr.strip()}"


def blind_worker(started: Scheduler, folder: Path) -> None:
    """Start a worker with an empty private file system in place of a folder."""
    hide = f'mount -t tmpfs none {folder} && exec "$@"'
    started.add_worker("--local-directory", "/tmp", before=("unshare", "-m", "sh", "-c", hide, "sh"))


@pytest.mark.skipif(no_namespaces() is not None, reason=str(no_namespaces()))
def test_a_worker_that_does_not_see_the_workspace_or_the_data(tmp_path):
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    np.save(data / "x.npy", blobs(300))
    settings = {"n_epochs": 5, "n_shards": 1}
    with scheduler_process(tmp_path / "a", n_workers=1) as started:
        blind_worker(started, home)
        started.wait_for_workers(2)
        with pytest.raises(ClusterError, match=r"worker tcp://\S+ on \S+ does not see the workspace") as caught:
            make_map(data / "x.npy", scheduler=started.address, workspace=home / "w", **settings)
        assert str(home / "w") in str(caught.value)
        assert "file system that all workers share" in str(caught.value)
        assert not list(home.rglob(".reachable*"))
        blind = started.workers[1]
        blind.kill()
        blind.wait()
        make_map(data / "x.npy", scheduler=started.address, workspace=home / "w", **settings)
    with scheduler_process(tmp_path / "b") as started:
        blind_worker(started, data)
        started.wait_for_workers(1)
        with pytest.raises(ClusterError, match=r"worker tcp://\S+ on \S+ cannot read .*x\.npy"):
            make_map(data / "x.npy", scheduler=started.address, workspace=home / "v", **settings)


@pytest.mark.skipif(no_namespaces() is not None, reason=str(no_namespaces()))
def test_a_worker_that_writes_to_another_directory(tmp_path):
    """As on a copy of the file system: it sees the driver's files, and the driver does not see its files."""
    home = tmp_path / "home"
    home.mkdir()
    overlay = (
        f"mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w && "
        f'mount -t overlay overlay -o lowerdir={home},upperdir=/mnt/u,workdir=/mnt/w {home} && exec "$@"'
    )
    probe = subprocess.run(["unshare", "-m", "sh", "-c", overlay, "sh", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"overlay mounts are not permitted: {probe.stderr.strip()}")
    x = blobs(300)
    with scheduler_process(tmp_path / "a") as started:
        options = ("--local-directory", str(tmp_path))
        started.add_worker(*options, before=("unshare", "-m", "sh", "-c", overlay, "sh"))
        started.wait_for_workers(1)
        with pytest.raises(ClusterError, match="writes to another directory"):
            make_map(x, scheduler=started.address, workspace=home / "w", n_epochs=5)


@pytest.mark.skipif(no_namespaces() is not None, reason=str(no_namespaces()))
def test_other_data_under_the_same_name(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    for seed, folder in enumerate((data, other)):
        folder.mkdir()
        np.save(folder / "x.npy", blobs(300, seed=seed))
    there = f'mount --bind {other} {data} && exec "$@"'
    with scheduler_process(tmp_path / "cluster") as started:
        started.add_worker(before=("unshare", "-m", "sh", "-c", there, "sh"))
        started.wait_for_workers(1)
        with pytest.raises(ClusterError, match=r"sees other data than this process as .*x\.npy"):
            make_map(data / "x.npy", scheduler=started.address, workspace=tmp_path / "w", n_epochs=5)


def test_workers_of_another_version_or_without_the_package(tmp_path):
    old = tmp_path / "old.py"
    old.write_text("from nomad_dask import _version\n_version.__version__ = '0.0.1'\n")
    without = tmp_path / "without.py"
    without.write_text("import sys\nsys.modules['nomad_dask'] = None\n")
    with scheduler_process(tmp_path / "cluster") as started:
        started.add_worker("--preload", str(old))
        started.wait_for_workers(1)
        message = r"has nomad-dask 0\.0\.1, the client has .* the same version"
        with pytest.raises(ClusterError, match=message), connect(scheduler=started.address):
            pass
        started.workers[0].kill()
        started.workers[0].wait()
        started.add_worker("--preload", str(without))
        started.wait_for_workers(1)
        message = r"cannot import what it needs .* install nomad-dask"
        with pytest.raises(ClusterError, match=message), connect(scheduler=started.address):
            pass
