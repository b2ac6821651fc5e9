"""Preloaded by the workers of an own cluster, which is there for one run on this machine's cores."""

from __future__ import annotations

import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ready a worker process; called by Dask in its main thread."""
    # Ctrl-C in a terminal reaches the workers too, but is for the driver.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported here, not by the first task beside another import: SciPy's modules import each other in circles.
    from nomad_dask.backends.select import load_cpu_kernels

    # The stages begin with tasks that run on one worker: meanwhile the others load what their kernels will need.
    threading.Thread(target=load_cpu_kernels, name="nomad-load", daemon=True).start()
