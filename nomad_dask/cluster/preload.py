"""Preloaded by the worker processes of an embedded cluster."""

from __future__ import annotations

import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:
    """Prepare a worker process; Dask calls it in the main thread of the process."""
    # Ctrl-C in a terminal reaches the workers too, but only the driver handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported here and not in the first task, next to another import: SciPy's modules import each other in circles.
    from nomad_dask.backends.select import load_cpu_kernels

    # The stages start with tasks on a single worker; meanwhile the others load what their kernels will need.
    threading.Thread(target=load_cpu_kernels, name="nomad-load", daemon=True).start()
