"""The Dask cluster: a given or an embedded one, checks before a run, and tasks with progress reports."""

from nomad_dask.cluster.connection import connect
from nomad_dask.cluster.dashboard import dashboard_of
from nomad_dask.cluster.executor import Cluster, WorkerInfo, assign_shards
from nomad_dask.cluster.preflight import check_reach
from nomad_dask.cluster.tasks import report_progress, worker_backend, worker_threads
from nomad_dask.cluster.worker_state import get_worker_state

__all__ = [
    "Cluster",
    "WorkerInfo",
    "assign_shards",
    "check_reach",
    "connect",
    "dashboard_of",
    "get_worker_state",
    "report_progress",
    "worker_backend",
    "worker_threads",
]
