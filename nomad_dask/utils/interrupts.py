"""Ctrl-C at any moment: not lost where code discards exceptions, and not raised where it would do damage.

Python raises KeyboardInterrupt between any two steps of the main thread. In a finalizer or a weak reference's callback
it is printed and discarded, code of other packages may catch it, and in an import it leaves half a module behind.
`InterruptHandler` takes the place of Python's own handler: it raises KeyboardInterrupt again until it is handled, and
waits for the end of imports and of `deferred` blocks.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from contextlib import contextmanager

TYPE_CHECKING = False  # `typing` takes longer to import than the rest, and the command line waits for this module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

# Programs that start others may pass a Ctrl-C on that the terminal has sent to all of them.
_SAME_SECONDS = 0.3
_RETRY_SECONDS = 0.1
_IMPORTLIB = "<frozen importlib._bootstrap>"


class InterruptHandler:
    """Handles signals that ask the process to stop; created in the main thread.

    Parameters
    ----------
    stop_at_once : callable, optional
        Called for the second signal, to end the process. By default that one raises KeyboardInterrupt at once.

    Attributes
    ----------
    is_requested : bool
        Whether a signal has arrived that was not acknowledged.
    """

    def __init__(self, stop_at_once: Callable[[], None] | None = None) -> None:
        self.is_requested = False
        self._stop_at_once = stop_at_once
        self._number, self._first_at = int(signal.SIGINT), 0.0
        self._n_deferred = 0
        self._n_imports = _count_imports(sys._getframe())
        self._is_repeated = self._is_closed = False
        self._repeating = threading.Lock()
        self._main_thread = threading.get_ident()
        # Unlike an Event, a SimpleQueue may be used in a signal handler.
        self._signals: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=self._repeat, name="nomad-interrupts", daemon=True).start()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises
        ------
        KeyboardInterrupt
        """
        is_repeated, self._is_repeated = self._is_repeated, False
        if is_repeated:
            if not self.is_requested or self._is_closed:
                return
        elif not self.is_requested:
            self.is_requested, self._first_at = True, time.monotonic()
        elif time.monotonic() - self._first_at < _SAME_SECONDS:
            return
        elif self._stop_at_once is not None:
            self._stop_at_once()
            return
        else:
            raise KeyboardInterrupt
        self._number = number
        self._signals.put(True)
        if not self._n_deferred and _count_imports(frame) <= self._n_imports:
            raise KeyboardInterrupt

    def acknowledge(self) -> bool:
        """Return whether a signal has arrived, and forget it: it is handled now."""
        is_requested, self.is_requested = self.is_requested, False
        return is_requested

    def close(self) -> None:
        """Stop raising."""
        self._is_closed = True
        with self._repeating:
            self._signals.put(False)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise KeyboardInterrupt only at the end of the block; a second signal is handled at once."""
        self._n_deferred += 1
        try:
            yield
        finally:
            self._n_deferred -= 1
        if self.is_requested and not self._is_being_handled():
            raise KeyboardInterrupt

    def _repeat(self) -> None:
        """Send the signal to the main thread again as long as it was neither handled nor acknowledged."""
        while self._signals.get():
            while self.is_requested and not self._is_closed:
                time.sleep(_RETRY_SECONDS)
                with self._repeating:
                    if self.is_requested and not self._is_closed and not self._is_being_handled():
                        self._is_repeated = True
                        signal.pthread_kill(self._main_thread, self._number)

    def _is_being_handled(self) -> bool:
        """Return whether the main thread is in a handler or a clean-up that a KeyboardInterrupt has entered."""
        found: Any = sys._current_exceptions().get(self._main_thread)
        error: BaseException | None = found[1] if isinstance(found, tuple) else found  # a tuple before Python 3.12
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        return error is not None


def _count_imports(frame: FrameType | None) -> int:
    """Return how many frames of a stack belong to the import system."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == _IMPORTLIB
        frame = frame.f_back
    return count


def current_handler() -> InterruptHandler | None:
    """Return the handler that the calling thread has for Ctrl-C; None outside the main thread, and without one."""
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    return handler if in_main_thread and isinstance(handler, InterruptHandler) else None


@contextmanager
def deferred() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block, where an `InterruptHandler` or Python's own handler handles it.

    Raises
    ------
    KeyboardInterrupt
        At the end of the block; at once for a second Ctrl-C.
    """
    with no_lost_interrupts():
        handler = current_handler()
        if handler is None:  # another thread, or the handler of another program
            yield
            return
        with handler.deferred():
            yield


@contextmanager
def no_lost_interrupts() -> Iterator[None]:
    """Make sure that a Ctrl-C during the block ends it with KeyboardInterrupt.

    Only in the main thread, and only in place of Python's own handler.

    Raises
    ------
    KeyboardInterrupt
        Also at the end of the block, and in place of another error that followed the Ctrl-C.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    handler = InterruptHandler()
    signal.signal(signal.SIGINT, handler)
    try:
        with silent_finalizers():
            yield
    except KeyboardInterrupt:
        raise
    except Exception as error:
        if handler.is_requested:
            raise KeyboardInterrupt from error
        raise
    finally:
        handler.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if handler.is_requested:
        raise KeyboardInterrupt


@contextmanager
def silent_finalizers() -> Iterator[None]:
    """Do not print a KeyboardInterrupt that Python discards, because an `InterruptHandler` raises it again."""
    previous = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            previous(unraisable)

    sys.unraisablehook = report
    try:
        yield
    finally:
        if sys.unraisablehook is report:
            sys.unraisablehook = previous
