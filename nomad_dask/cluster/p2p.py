"""Data exchange between tasks that run at the same time on several workers, directly from worker to worker.

Through task results, the data would pass through the client, which takes some twenty milliseconds per step of any
size. A batch is a set of such tasks, one per worker, that exchange data in step. Tasks of a batch leave the worker's
thread pool and release the task lock while they wait, so two batches on the same workers never wait for each other.
No task waits without end: one that finds a worker lost, or cannot deliver its data, aborts the batch on all workers.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

from nomad_dask.cluster.tasks import release_task_lock, report_progress
from nomad_dask.cluster.worker_state import get_worker_state

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
# Number of ended batches that are remembered, to reject messages that arrive late.
_REMEMBERED = 256
_RECEIVE, _ABORT, _IS_ACTIVE = "nomad_dask_receive", "nomad_dask_abort", "nomad_dask_is_active"


class ExchangeAborted(Exception):  # noqa: N818 - not an error of the run, which loads the shards again
    """A task of the batch cannot continue."""


class Inbox:
    """Messages that a worker has received. Other workers call its handlers, which run on the event loop.

    Attributes
    ----------
    changed : threading.Condition
        Notified when a part arrives and when a batch is aborted.
    parts : dict
        By batch and step, the parts received so far, by their number.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.parts: dict[tuple[str, int], dict[int, Any]] = {}
        self._aborted: deque[str] = deque(maxlen=_REMEMBERED)
        self._finished: deque[str] = deque(maxlen=_REMEMBERED)
        self._closed = False

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return the handlers by the names under which a worker offers them to others."""
        return {_RECEIVE: self.receive, _ABORT: self.abort, _IS_ACTIVE: self.is_active}

    def receive(self, batch: str, step: int, parts: dict[int, Any]) -> bool:
        """Store parts of a batch; those of an ended batch are discarded."""
        with self.changed:
            if batch not in self._finished and self.is_active(batch):
                self.parts.setdefault((batch, step), {}).update(parts)
                self.changed.notify_all()
        return True

    def abort(self, batch: str) -> bool:
        """Make the task of a batch on this worker return."""
        with self.changed:
            if batch not in self._aborted:
                self._aborted.append(batch)
            self._discard(batch)
            self.changed.notify_all()
        return True

    def is_active(self, batch: str) -> bool:
        """Return whether a batch was not aborted."""
        return not self._closed and batch not in self._aborted

    def finish(self, batch: str) -> None:
        """Discard what was received for a batch, and what arrives later."""
        with self.changed:
            self._finished.append(batch)
            self._discard(batch)

    def close(self) -> None:
        """Abort all batches."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def _discard(self, batch: str) -> None:
        for key in [key for key in self.parts if key[0] == batch]:
            del self.parts[key]


class PeerExchange:
    """The exchange of a batch, for one of its tasks.

    Parameters
    ----------
    batch : str
        A name never used before.
    addresses : sequence of str
        For each part, the address of the worker that sends it; the same for all tasks of the batch.
    """

    def __init__(self, batch: str, addresses: Sequence[str]) -> None:
        from distributed import get_worker, secede

        self._batch, self._addresses = batch, tuple(addresses)
        self._worker = get_worker()
        self._inbox = get_worker_state(self._worker).get(Inbox)
        self._peers = sorted(set(addresses) - {self._worker.address})
        if self._peers:
            secede()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._peers:
            if kind is not None:
                self.abort()
            self._inbox.finish(self._batch)

    def exchange(self, step: int, own_parts: dict[int, Any]) -> list[Any]:
        """Send the task's parts, by their number, and return the parts of all tasks in order.

        Raises
        ------
        ExchangeAborted
            A worker is lost, another task cannot continue, or this one runs elsewhere than the others think.
        Interrupted
            The driver has abandoned the task.
        """
        if any(self._addresses[number] != self._worker.address for number in own_parts):
            raise ExchangeAborted  # the others send their parts to the worker that is lost
        if not self._peers:
            return [own_parts[number] for number in sorted(own_parts)]
        from distributed.protocol import to_serialize  # type: ignore[attr-defined]

        message = to_serialize(own_parts)  # type: ignore[no-untyped-call]
        for peer in self._peers:
            self._start(self._deliver(peer, step=step, parts=message))
        with release_task_lock():
            parts = own_parts | self._receive_others(step, len(self._addresses) - len(own_parts))
        return [parts[number] for number in sorted(parts)]

    def check(self, step: int) -> None:
        """Report the progress, and check that the tasks of the batch can still continue, on all workers.

        Raises
        ------
        ExchangeAborted
            A worker is lost, or another task cannot continue.
        Interrupted
            The driver has abandoned the task.
        """
        report_progress(step)
        if not self._inbox.is_active(self._batch):
            raise ExchangeAborted
        for peer in self._peers:
            self._check_peer(peer)

    def abort(self) -> None:
        """Make all tasks of the batch return."""
        if self._peers:
            self._inbox.abort(self._batch)
            self._start(self._abort_peers())

    def _receive_others(self, step: int, n_others: int) -> dict[int, Any]:
        """Wait for the parts of the other tasks, and check regularly that those still missing will come."""
        key, inbox = (self._batch, step), self._inbox

        def is_complete() -> bool:
            return not inbox.is_active(self._batch) or len(inbox.parts.get(key, ())) == n_others

        while True:
            with inbox.changed:
                complete = inbox.changed.wait_for(is_complete, _POLL_SECONDS)
                if not inbox.is_active(self._batch):
                    raise ExchangeAborted
                if complete:
                    return inbox.parts.pop(key)
                received = set(inbox.parts.get(key, ()))
            report_progress(step)
            missing = {address for number, address in enumerate(self._addresses) if number not in received}
            for peer in missing & set(self._peers):
                self._check_peer(peer)

    def _check_peer(self, peer: str) -> None:
        """Raise if a worker is gone or has aborted the batch.

        A worker that does not answer may be frozen, or cut off for a while: the scheduler decides about it.
        """
        request = self._start(self._call(peer, _IS_ACTIVE))
        try:
            active = request.result(_ANSWER_SECONDS)
        except TimeoutError:
            request.cancel()
            return
        except OSError:
            active = False
        if not active:
            raise ExchangeAborted

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Start a coroutine on the worker's event loop and return its future."""
        loop: Any = self._worker.loop  # Tornado's, around that of asyncio
        return asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop)

    async def _call(self, peer: str, operation: str, **arguments: Any) -> Any:
        return await getattr(self._worker.rpc(peer), operation)(batch=self._batch, **arguments)

    async def _deliver(self, peer: str, **message: Any) -> None:
        try:
            delivered = await self._call(peer, _RECEIVE, **message)
        except OSError:
            delivered = False
        if not delivered:  # the peer would wait for it without end
            self._inbox.abort(self._batch)
            await self._abort_peers()

    async def _abort_peers(self) -> None:
        # A worker that is not reached finds out when it asks this one whether the batch is active.
        await asyncio.gather(*(self._call(peer, _ABORT) for peer in self._peers), return_exceptions=True)
