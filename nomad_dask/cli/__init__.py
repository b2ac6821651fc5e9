"""The command line: `nomad-dask`. Every command reads its options and calls the package that does the work.

Exit codes: 0 done, 2 wrong use or bad input, 3 not enough memory or disk, 4 interrupted, 1 anything else.
Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

# Only what is imported in no time: before these lines, Ctrl-C ends in a traceback.
import os
import signal
import sys

_EXIT_INTERRUPTED = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


def _end_interrupted(message: str = "") -> None:
    """End the process without what Python does at its end, which a signal could disturb. Its workers end with it."""
    if message:
        cursor = _SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{cursor}Error: {message}\n".encode())
    os._exit(_EXIT_INTERRUPTED)


def _handle_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    for number in _SIGNALS:
        # Ignored in a background job of a shell script, which a Ctrl-C for others must not stop.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


_OWN_SCRIPTS = ("/nomad-dask", "/nomad_dask/__main__.py")
# Not in other programs that import this module, and not in worker processes, which import the script.
if sys.argv and sys.argv[0].endswith(_OWN_SCRIPTS) and "multiprocessing" not in sys.modules:
    # Nothing has started yet that would have to be ended.
    _handle_signals(lambda *_: _end_interrupted("Stopped."))

import atexit  # noqa: E402
from contextlib import suppress  # noqa: E402

from nomad_dask.utils.interrupts import InterruptHandler, silent_finalizers  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn


def __getattr__(name: str) -> Any:
    if name == "cli":
        from nomad_dask.cli.commands import cli

        return cli
    raise AttributeError(f"module 'nomad_dask.cli' has no attribute {name!r}")


def main() -> NoReturn:
    """Run the command line and end the process: with exit code 4 if Ctrl-C or SIGTERM has stopped it at any moment.

    A second signal ends the process at once.
    """
    handler = InterruptHandler(_stop_at_once)
    code = _EXIT_INTERRUPTED
    codes: list[int] = []
    atexit.register(_leave, codes)  # first, so that it is called last
    try:
        _handle_signals(handler)
        with silent_finalizers():
            from nomad_dask.cli.commands import run

            code = run()
        _end_with_the_results(handler, code)
    except KeyboardInterrupt:
        handler.close()
    if handler.is_requested:
        _end_interrupted("Stopped.")
    if code == _EXIT_INTERRUPTED:  # the command has reported it
        _end_interrupted()
    codes.append(code)
    sys.exit(code)


def _leave(codes: list[int]) -> None:
    """End the process before Python removes its signal handlers and its modules, in which a signal would kill it."""
    if codes:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(codes[0])


def _end_with_the_results(handler: InterruptHandler, code: int) -> None:
    """Make signals from now on end the process: nothing handles an exception while the interpreter shuts down."""
    message = "" if code else "Stopped when the command had finished: its results are complete."
    _handle_signals(lambda *_: _end_interrupted(message))
    handler.close()


def _stop_at_once() -> None:
    _end_interrupted("Stopped at once. The same command continues from the work that is complete.")
