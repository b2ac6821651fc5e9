"""What commands and workers on CPUs import and load before their work, done once for all that are forked from here."""

import gc
import os

# As nannies do, and without a thread of Arrow's allocator: a process with threads cannot be forked.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

import distributed.cli.dask_scheduler
import distributed.cli.dask_worker
import distributed.nanny  # noqa: F401
import pandas  # noqa: F401

import nomad_dask.cli.commands
import nomad_dask.layout.worker
import nomad_dask.metrics
import nomad_dask.pipeline.resources
import nomad_dask.pipeline.run
import nomad_dask.site.export
import nomad_dask.site.server
import nomad_dask.sources.open  # noqa: F401
from nomad_dask.backends.select import load_cpu_kernels

load_cpu_kernels()
gc.collect()
gc.freeze()
