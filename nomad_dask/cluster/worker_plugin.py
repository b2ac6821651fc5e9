"""The Dask plugin that gives every worker of a cluster its `WorkerState`, including workers that join later."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distributed import WorkerPlugin
from distributed.protocol.pickle import dumps

from nomad_dask.cluster.p2p import Inbox
from nomad_dask.cluster.settings import timeout
from nomad_dask.cluster.watchdog import call_scheduler
from nomad_dask.cluster.worker_state import EXTENSION, WorkerState
from nomad_dask.errors import ClusterError

# The scheduler passes the request on to the workers even when the client does not wait for their answers.
_UNREGISTER_SECONDS = 2


class NomadWorkerPlugin(WorkerPlugin):
    """Creates the state of a worker, and removes it when no connection uses it any more.

    Several clients may be connected to the same workers. Each registers a plugin with a name of its own, and the
    plugins of a worker share its state.

    Attributes
    ----------
    name : str
    """

    def __init__(self) -> None:
        self.name = f"nomad-dask-{uuid.uuid4().hex}"

    def setup(self, worker: Any) -> None:
        """Add this connection to the worker's state.

        Parameters
        ----------
        worker : distributed.Worker
        """
        state = worker.extensions.get(EXTENSION)
        if state is None:
            state = worker.extensions[EXTENSION] = WorkerState()
            worker.handlers.update(state.get(Inbox).handlers())
        state.connections.add(self.name)

    def teardown(self, worker: Any) -> None:
        """Remove this connection from the worker's state, and the state with the last connection.

        Parameters
        ----------
        worker : distributed.Worker
        """
        state = worker.extensions[EXTENSION]
        state.connections.discard(self.name)
        if not state.connections:
            del worker.extensions[EXTENSION]
            inbox = state.get(Inbox)
            for operation in inbox.handlers():
                del worker.handlers[operation]
            inbox.close()


def register_plugin(client: Any) -> str:
    """Set up the state of all workers of a client, now and when they join, and return the name of the plugin.

    Raises
    ------
    ClusterError
        A worker or the scheduler does not answer in time, or a worker fails to set it up.
    """
    plugin = NomadWorkerPlugin()
    for address, answer in _broadcast_plugin(client, plugin).items():
        if answer["status"] == "error":
            raise ClusterError(f"The worker {address} could not be set up ({answer['exception_text']}): restart it.")
    return plugin.name


def _broadcast_plugin(client: Any, plugin: NomadWorkerPlugin) -> dict[str, Any]:
    """Return the answer of each worker. A worker that dies meanwhile fails the request, which is then repeated."""
    seconds = timeout("lost-after")
    pickled = dumps(plugin)  # type: ignore[no-untyped-call]
    request = {"plugin": pickled, "name": plugin.name, "idempotent": False}
    deadline = time.monotonic() + seconds
    while True:
        try:
            return dict(call_scheduler(client, "register_worker_plugin", seconds, **request))
        except TimeoutError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Not all workers could be set up within {seconds:.0f} s ({str(error) or 'no answer'}): "
                    "end those that are frozen or cut off, and run the same again."
                ) from error
        time.sleep(0.1)


@contextmanager
def registered_plugin(client: Any) -> Iterator[None]:
    """Give all workers of a client their state until the end of the context."""
    name = register_plugin(client)
    try:
        yield
    finally:
        if client.status == "running":
            with suppress(OSError, ClusterError):
                call_scheduler(client, "unregister_worker_plugin", _UNREGISTER_SECONDS, name=name)
