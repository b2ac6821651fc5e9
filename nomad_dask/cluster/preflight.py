"""Checks before a run: every worker has this version, and reaches the workspace and the data."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from nomad_dask._version import __version__
from nomad_dask.cluster.executor import Cluster
from nomad_dask.cluster.settings import timeout
from nomad_dask.cluster.watchdog import scheduler_lost_error
from nomad_dask.errors import ClusterError
from nomad_dask.sources.base import Source

_PROBE = ".reachable"
# Network file systems show new files late.
_VISIBLE_SECONDS = 5.0


@dataclass(frozen=True)
class _WorkerReach:
    """What a worker reaches.

    Attributes
    ----------
    host : str
    problem : str, optional
        What it does not reach, and what to do.
    probe : str
        Name of the file that it has written for the driver, if there is no problem.
    """

    host: str
    problem: str | None = None
    probe: str = ""


def check_versions(cluster: Cluster) -> None:
    """Check that the scheduler has this package, and every worker the same version as the client.

    Raises
    ------
    ClusterError
        Names the first worker that differs.
    """
    if cluster.in_process:
        return
    _check_scheduler(cluster)
    for address, answer in sorted(cluster.run_on_workers(_version).items()):
        # Dask sends an unpickling error as the text of a plain Exception.
        if isinstance(answer, ImportError) or "ModuleNotFoundError" in str(answer):
            raise ClusterError(
                f"The worker {address} cannot import what it needs ({answer}): "
                f"install nomad-dask {__version__} where workers run."
            )
        if isinstance(answer, Exception):
            raise ClusterError(
                f"The worker {address} fails to return its version ({type(answer).__name__}: {answer}): restart it."
            )
        host, version = answer
        if version != __version__:
            raise ClusterError(
                f"The worker {address} on {host} has nomad-dask {version}, the client has {__version__}: "
                "install the same version everywhere, and restart the workers."
            )


def _check_scheduler(cluster: Cluster) -> None:
    """Check that the scheduler has this package, because it unpickles tasks."""
    client = cluster.client
    try:
        client.sync(client._run_on_scheduler, _version, callback_timeout=timeout("lost-after"))
    except TimeoutError as error:
        raise ClusterError(
            f"The scheduler {client.scheduler.address} does not answer: check that its process and the network work."
        ) from error
    except OSError as error:
        raise scheduler_lost_error(client) from error
    except Exception as error:
        # Dask sends an unpickling error as the text of a plain Exception.
        if "ModuleNotFoundError" not in repr(error):
            raise
        raise ClusterError(
            f"The scheduler {client.scheduler.address} cannot import what it needs ({error}): "
            f"install nomad-dask {__version__} where it runs."
        ) from error


def _version() -> tuple[str, str]:
    return socket.gethostname(), __version__


def check_reach(cluster: Cluster, workspace: Path, source: Source) -> None:
    """Check that every worker and the driver see each other's files in the workspace, and the same data.

    Parameters
    ----------
    cluster : Cluster
    workspace : Path
        An existing directory.
    source : Source
        Checked by every worker if workers read it themselves.

    Raises
    ------
    ClusterError
        Names the worker, its host, and the path.
    """
    if cluster.in_process:
        return
    probe = f"{_PROBE}-{secrets.token_hex(8)}"
    try:
        (workspace / probe).write_text(probe)
        data = (source, source.fingerprint()) if source.shareable else None
        answers = cluster.run_on_workers(_check_worker_reach, str(workspace), probe, data)
        for address, reach in sorted(answers.items()):
            if isinstance(reach, Exception):
                raise ClusterError(
                    f"The worker {address} cannot check the workspace {workspace} and the data "
                    f"({type(reach).__name__}: {reach}): restart it."
                )
            problem = reach.problem
            if problem is None and not _appears(workspace / reach.probe):
                problem = (
                    f"writes to another directory {workspace} than this process has: "
                    "give a --workspace on a file system that all of them share"
                )
            if problem is not None:
                raise ClusterError(f"The worker {address} on {reach.host} {problem}.")
    finally:
        for file in workspace.glob(f"{_PROBE}-*"):
            file.unlink(missing_ok=True)


def _check_worker_reach(workspace: str, driver_probe: str, data: tuple[Source, str] | None) -> _WorkerReach:
    """Find the file of the driver, write one for it, and check the source; runs on a worker."""
    host = socket.gethostname()
    folder = Path(workspace)
    remedy = "give a --workspace on a file system that all workers share"
    if not _appears(folder / driver_probe):
        return _WorkerReach(host, f"does not see the workspace {workspace}: {remedy}, under the same path")
    probe = f"{driver_probe}.{secrets.token_hex(8)}"
    try:
        (folder / probe).write_text(probe)
    except OSError as error:
        return _WorkerReach(
            host, f"cannot write to the workspace {workspace} ({error}): {remedy}, and allow workers to write"
        )
    if data is None:
        return _WorkerReach(host, probe=probe)
    source, fingerprint = data
    remedy = "put it on a file system that all workers share, under the same path"
    try:
        if source.fingerprint() != fingerprint:
            return _WorkerReach(host, f"sees other data than this process as {source.name}: {remedy}")
    except (OSError, ValueError) as error:
        return _WorkerReach(host, f"cannot read {source.name} ({error}): {remedy}")
    return _WorkerReach(host, probe=probe)


def _appears(file: Path) -> bool:
    """Return whether a file that another process wrote is visible, after waiting for it a short time."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline or not file.parent.is_dir():
            return False
        time.sleep(0.1)
    return True
