"""Ctrl-C during the layout: the first one lets the running epochs finish, so that their work is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def graceful_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one is handled by the previous handler.

    Only the main thread receives signals: in other threads, and where Python does not handle SIGINT, the event is
    never set.

    Raises
    ------
    KeyboardInterrupt
        At the end of the block, if the event is set.
    """
    interrupted = threading.Event()
    previous_handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous_handler):
        yield interrupted
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            previous_handler(number, frame)
        interrupted.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if interrupted.is_set():  # also when it came too late for the block to notice
        raise KeyboardInterrupt
