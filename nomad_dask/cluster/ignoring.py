"""Preloaded by the workers of an own cluster: Ctrl-C in a terminal reaches them too, but is for the driver."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore the signal; called by Dask in the main thread of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
