"""Before the work: every worker has this version, sees the workspace, and reads the same data."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from nomad_dask._version import __version__
from nomad_dask.cluster.executor import Cluster
from nomad_dask.cluster.watchdog import timeout
from nomad_dask.errors import ClusterError
from nomad_dask.sources.base import Source

_MARK = ".reachable"
# Network file systems tell of new files late.
_VISIBLE_SECONDS = 5.0


@dataclass(frozen=True)
class _Seen:
    """What one worker sees: what is wrong with it, or the name of the file it has written."""

    host: str
    wrong: str | None = None
    wrote: str = ""


def check_versions(cluster: Cluster) -> None:
    """Refuse workers that have another version of this package than the client.

    Raises
    ------
    ClusterError
        Naming them.
    """
    if cluster.in_process:
        return
    _check_scheduler(cluster)
    for address, answer in sorted(cluster.run_on_workers(_version).items()):
        # Dask sends an error of unpickling as text in a plain Exception.
        if isinstance(answer, ImportError) or "ModuleNotFoundError" in str(answer):
            raise ClusterError(
                f"The worker {address} cannot import what it needs ({answer}): "
                f"install nomad-dask {__version__} where workers run."
            )
        if isinstance(answer, Exception):
            raise ClusterError(
                f"The worker {address} fails to say its version ({type(answer).__name__}: {answer}): restart it."
            )
        host, version = answer
        if version != __version__:
            raise ClusterError(
                f"The worker {address} on {host} has nomad-dask {version}, the client has {__version__}: "
                "install the same version everywhere, and restart the workers."
            )


def _check_scheduler(cluster: Cluster) -> None:
    """Refuse a scheduler without this package: it unpickles the tasks it is given."""
    client = cluster.client
    try:
        client.sync(client._run_on_scheduler, _version, callback_timeout=timeout("lost-after"))
    except TimeoutError as error:
        raise ClusterError(
            f"The scheduler {client.scheduler.address} does not answer: see that its process and the network work."
        ) from error
    except Exception as error:
        # Dask sends an error of unpickling as text in a plain Exception.
        if "ModuleNotFoundError" not in repr(error):
            raise
        raise ClusterError(
            f"The scheduler {client.scheduler.address} cannot import what it needs ({error}): "
            f"install nomad-dask {__version__} where it runs."
        ) from error


def _version() -> tuple[str, str]:
    return socket.gethostname(), __version__


def check_reach(cluster: Cluster, workspace: Path, source: Source) -> None:
    """Check that every worker and the driver see each other's files in the workspace, and the same source.

    Parameters
    ----------
    cluster : Cluster
    workspace : Path
        A directory that exists.
    source : Source
        Looked at by every worker, when workers open it by themselves.

    Raises
    ------
    ClusterError
        Naming the worker, its host, and the path.
    """
    if cluster.in_process:
        return
    mark = f"{_MARK}-{secrets.token_hex(8)}"
    try:
        (workspace / mark).write_text(mark)
        data = (source, source.fingerprint()) if source.shareable else None
        answers = cluster.run_on_workers(_look, str(workspace), mark, data)
        for address, seen in sorted(answers.items()):
            if isinstance(seen, Exception):
                raise ClusterError(
                    f"The worker {address} cannot look at the workspace {workspace} and the data "
                    f"({type(seen).__name__}: {seen}): restart it."
                )
            wrong = seen.wrong
            if wrong is None and not _appears(workspace / seen.wrote):
                wrong = (
                    f"writes to another directory {workspace} than this process has: "
                    "give a --workspace on a file system that all of them share"
                )
            if wrong is not None:
                raise ClusterError(f"The worker {address} on {seen.host} {wrong}.")
    finally:
        for file in workspace.glob(f"{_MARK}-*"):
            file.unlink(missing_ok=True)


def _look(workspace: str, mark: str, data: tuple[Source, str] | None) -> _Seen:
    """Read what the driver wrote, write something for it, and look at the source; on a worker."""
    host = socket.gethostname()
    folder = Path(workspace)
    shared = "give a --workspace on a file system that all workers share"
    if not _appears(folder / mark):
        return _Seen(host, f"does not see the workspace {workspace}: {shared}, under the same path")
    mine = f"{mark}.{secrets.token_hex(8)}"
    try:
        (folder / mine).write_text(mine)
    except OSError as error:
        return _Seen(host, f"cannot write to the workspace {workspace} ({error}): {shared}, and let workers write")
    if data is None:
        return _Seen(host, wrote=mine)
    source, fingerprint = data
    same = "put it on a file system that all workers share, under the same path"
    try:
        if source.fingerprint() != fingerprint:
            return _Seen(host, f"sees other data than this process as {source.name}: {same}")
    except (OSError, ValueError) as error:
        return _Seen(host, f"cannot read {source.name} ({error}): {same}")
    return _Seen(host, wrote=mine)


def _appears(file: Path) -> bool:
    """Return whether a file that another process wrote is there, waiting a little for it."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline or not file.parent.is_dir():
            return False
        time.sleep(0.1)
    return True
