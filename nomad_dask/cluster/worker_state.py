"""What a worker keeps in memory between tasks. `worker_plugin` creates it on every worker and removes it."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

from nomad_dask.cluster.forks import ProcessLock
from nomad_dask.errors import ClusterError

T = TypeVar("T")
# The name under which a worker holds its state, among its extensions.
EXTENSION = "nomad-dask"
# One for all workers of a process, because they share its cores or its GPU.
PROCESS_LOCK = ProcessLock()


class WorkerState:
    """The state of one Dask worker: a lock, and one object per class that a module of ours keeps here.

    It holds only what can be computed again, so a lost worker costs time and nothing else.

    Attributes
    ----------
    connections : set of str
        Names of the plugins that use this state; it is removed with the last of them.
    task_lock : ProcessLock
        Held by the task that computes. Tasks of one process run one at a time, each with all its threads.
    """

    def __init__(self) -> None:
        self.connections: set[str] = set()
        self.task_lock = PROCESS_LOCK
        self._objects: dict[type[Any], Any] = {}
        self._lock = threading.Lock()

    def get(self, kind: type[T]) -> T:
        """Return the worker's object of a class, which is created without arguments on the first call."""
        with self._lock:
            if kind not in self._objects:
                self._objects[kind] = kind()
            kept: T = self._objects[kind]
            return kept


def get_worker_state(worker: Any = None) -> WorkerState:
    """Return the state of a worker, by default of the one that runs the calling task.

    Raises
    ------
    ClusterError
        The worker has no `NomadWorkerPlugin`, because the client that submitted the task has closed its connection.
    """
    if worker is None:
        from distributed import get_worker

        worker = get_worker()
    state: WorkerState | None = worker.extensions.get(EXTENSION)
    if state is None:
        raise ClusterError(f"The worker {worker.address} is not connected to a run.")
    return state
