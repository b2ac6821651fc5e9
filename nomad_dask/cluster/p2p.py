"""What tasks that run at the same time on several workers tell each other, from worker to worker.

Their results would reach each other through the client only: some twenty milliseconds a turn, whatever is told.
A batch is a set of such tasks, one a worker, that take turns in step. Tasks in a batch leave the worker's pool
of threads, and let go of the process while they wait, so that two batches on the same workers never wait for
each other. No turn waits for what will not come: whoever sees that a worker is gone, or that what it told did
not arrive, stops the batch for all, and all return.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Self

from nomad_dask.cluster.tasks import release_slot, report_progress

_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
# Batches that are over, kept to refuse what comes too late.
_REMEMBERED = 256
_HEAR, _STOP, _STANDS = "nomad_dask_hear", "nomad_dask_stop", "nomad_dask_stands"


class ExchangeAbortedError(Exception):
    """Some task of the batch cannot go on."""


class _Inbox:
    """What has come to a worker. `hear`, `stop` and `stands` are called by the others, on its event loop."""

    def __init__(self) -> None:
        self.news = threading.Condition()
        self.parts: dict[tuple[str, int], dict[int, Any]] = {}
        self.stopped: deque[str] = deque(maxlen=_REMEMBERED)
        self.over: deque[str] = deque(maxlen=_REMEMBERED)

    def hear(self, batch: str, turn: int, parts: dict[int, Any]) -> bool:
        with self.news:
            if batch not in self.over and batch not in self.stopped:
                self.parts.setdefault((batch, turn), {}).update(parts)
                self.news.notify_all()
        return True

    def stop(self, batch: str) -> bool:
        with self.news:
            if batch not in self.stopped:
                self.stopped.append(batch)
            self.drop(batch)
            self.news.notify_all()
        return True

    def stands(self, batch: str) -> bool:
        return batch not in self.stopped

    def drop(self, batch: str) -> None:
        for key in [key for key in self.parts if key[0] == batch]:
            del self.parts[key]


_boxes: dict[str, _Inbox] = {}


def listen() -> _Inbox:
    """Let this worker hear others. To be called in a task on every worker before the first batch begins."""
    from distributed import get_worker

    worker = get_worker()
    if worker.address not in _boxes:
        box = _boxes[worker.address] = _Inbox()
        worker.handlers |= {_HEAR: box.hear, _STOP: box.stop, _STANDS: box.stands}
    return _boxes[worker.address]


class PeerExchange:
    """A task's place in its batch.

    Parameters
    ----------
    batch : str
        Its name, never used before.
    homes : sequence of str
        For each part that is told, the address of the worker that tells it. All tasks of the batch give the same.
    """

    def __init__(self, batch: str, homes: Sequence[str]) -> None:
        from distributed import get_worker, secede

        self._batch, self._homes = batch, tuple(homes)
        self._worker = get_worker()
        self._peers = sorted(set(homes) - {self._worker.address})
        if self._peers:
            self._box = listen()
            secede()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._peers:
            return
        if kind is not None:
            self.stop()
        with self._box.news:
            self._box.over.append(self._batch)
            self._box.drop(self._batch)

    def exchange(self, turn: int, own: dict[int, Any]) -> list[Any]:
        """Tell the own parts, by number, and return the parts of all in order, when all have come.

        Raises
        ------
        ExchangeAbortedError
            A worker is gone, or another task cannot go on.
        Interrupted
            Nobody waits for this task any more.
        """
        if not self._peers:
            return [own[number] for number in sorted(own)]
        from distributed.protocol import to_serialize  # type: ignore[attr-defined]

        told = to_serialize(own)  # type: ignore[no-untyped-call]
        for peer in self._peers:
            self._begin(self._deliver(peer, _HEAR, turn=turn, parts=told))
        key, others = (self._batch, turn), len(self._homes) - len(own)
        with release_slot():
            while True:
                with self._box.news:
                    self._box.news.wait_for(lambda: self._complete(key, others), _LOOK_SECONDS)
                    if self._batch in self._box.stopped:
                        raise ExchangeAbortedError
                    if self._complete(key, others):
                        parts = own | self._box.parts.pop(key)
                        return [parts[number] for number in sorted(parts)]
                    came = set(self._box.parts.get(key, ()))
                report_progress(turn)
                missing = {home for number, home in enumerate(self._homes) if number not in came}
                for peer in missing & set(self._peers):
                    self._look_after(peer)

    def stop(self) -> None:
        """Let all tasks of the batch return."""
        if self._peers:
            self._box.stop(self._batch)
            self._begin(self._tell_stop())

    def _complete(self, key: tuple[str, int], others: int) -> bool:
        return self._batch in self._box.stopped or len(self._box.parts.get(key, ())) == others

    def _look_after(self, peer: str) -> None:
        """See whether a worker from which nothing has come is still there, and goes on.

        One that does not answer may be frozen, or cut off for a while: that is for the scheduler to judge.
        """
        asked = self._begin(self._ask(peer, _STANDS))
        try:
            stands = asked.result(_ANSWER_SECONDS)
        except TimeoutError:
            asked.cancel()
            return
        except OSError:
            stands = False
        if not stands:
            raise ExchangeAbortedError

    def _begin(self, work: Coroutine[Any, Any, Any]) -> Any:
        loop: Any = self._worker.loop  # of Tornado, over asyncio's
        return asyncio.run_coroutine_threadsafe(work, loop.asyncio_loop)

    async def _ask(self, peer: str, what: str, **message: Any) -> Any:
        return await getattr(self._worker.rpc(peer), what)(batch=self._batch, **message)

    async def _deliver(self, peer: str, what: str, **message: Any) -> None:
        try:
            arrived = await self._ask(peer, what, **message)
        except OSError:
            arrived = False
        if not arrived:  # it would be waited for without end
            self._box.stop(self._batch)
            await self._tell_stop()

    async def _tell_stop(self) -> None:
        # Those that are not reached see by themselves that this batch stands no more.
        await asyncio.gather(*(self._ask(peer, _STOP) for peer in self._peers), return_exceptions=True)
