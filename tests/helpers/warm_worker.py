"""What workers on CPUs import and load before their first task, done once for all that are forked from here."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as nannies do: a process with threads cannot be forked

import distributed.cli.dask_scheduler
import distributed.cli.dask_worker
import distributed.nanny  # noqa: F401

import nomad_dask.layout.worker
import nomad_dask.pipeline.run  # noqa: F401
from nomad_dask.backends.select import load_cpu_kernels

load_cpu_kernels()
gc.collect()
gc.freeze()
