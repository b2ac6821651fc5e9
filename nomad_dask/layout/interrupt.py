"""Ctrl-C during the layout: the first lets the epochs under way end, so that nothing of them is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def graceful_interrupt() -> Iterator[threading.Event]:
    """Give an event that is set by the first Ctrl-C; the second does what a first one does elsewhere.

    Only the main thread hears of signals: in any other the event is never set, and so it is where signals are
    not Python's to handle.
    """
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield asked
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            before(number, frame)
        asked.set()

    signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
