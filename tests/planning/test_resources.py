"""What a plan says a process needs is never less than what a real fit takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from nomad_dask.callbacks import Event, StageStarted
from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.pipeline.time_estimate import estimate_seconds
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources import open_source
from tests.helpers.runs import blobs, make_map, worker_processes

FIT = """
import json, sys
from pathlib import Path
from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.pipeline.options import ClusterOptions, OutputOptions
from nomad_dask.pipeline.run import project
from nomad_dask.sources import open_source
project(
    open_source(sys.argv[1]),
    Params(**json.loads(sys.argv[2])),
    cluster=ClusterOptions(memory_limit=sys.argv[4]),
    output=OutputOptions(Path(sys.argv[3])),
)
"""


def disk_now(folder: Path) -> int:
    """Return the bytes of the blocks that a folder takes on the disk; files of two names count once."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in ("", *names):
            with suppress(FileNotFoundError, NotADirectoryError):
                status = Path(place, name).lstat()
                found[status.st_ino] = 512 * status.st_blocks
    return sum(found.values())


@pytest.mark.parametrize(
    ("shape", "dtype", "memory", "settings"),
    [
        ((60_000, 64), "f2", "4GB", {"n_epochs": 2, "coarse_init": "always"}),
        ((24_000, 400), "f4", "700MB", {"n_epochs": 2, "n_shards": 2}),
        ((5_000, 512), "f8", "4GB", {"n_epochs": 2}),
        ((30_000, 16), "i1", "4GB", {"n_epochs": 2, "n_shards": 3}),
    ],
)
def test_a_real_fit_needs_no_more_than_its_plan(tmp_path, shape, dtype, memory, settings):
    data, output = tmp_path / "x.npy", tmp_path / "map.parquet"
    np.save(data, blobs(shape[0], n_dims=shape[1]).astype(dtype))
    from nomad_dask.utils.memory import parse_bytes

    needed = estimate_resources(make_plan(open_source(data), Params(**settings), 1, parse_bytes(memory) or 0))
    process = subprocess.Popen([sys.executable, "-c", FIT, data, json.dumps(settings), output, memory])
    watched, peak, disk = psutil.Process(process.pid), 0, 0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        disk = max(disk, disk_now(tmp_path / "map.parquet.nomad"))
        time.sleep(0.02)
    assert process.wait() == 0
    assert needed.host_bytes / 4 < peak <= needed.host_bytes
    assert needed.disk_bytes / 8 < disk <= needed.disk_bytes


@pytest.mark.filterwarnings("ignore:The neighbor search found")
def test_vectors_that_are_copied_for_the_workers_are_in_the_plan(tmp_path):
    """A copy of what workers cannot open lies beside the sample, the sorted blocks and the shards made of them."""
    peak: dict[str, int] = {}
    stage, is_done = "", threading.Event()

    def watch() -> None:
        while not is_done.wait(0.005):
            peak[stage] = max(peak.get(stage, 0), disk_now(tmp_path / "w"))

    def emit(event: Event) -> None:
        nonlocal stage
        stage = event.stage if isinstance(event, StageStarted) else stage

    x = blobs(6000, n_dims=512).astype(np.float64)
    watcher = threading.Thread(target=watch)
    with worker_processes(1) as client:
        watcher.start()
        try:
            make_map(x, client=client, workspace=tmp_path / "w", n_epochs=2, n_shards=2, emit=emit)
        finally:
            is_done.set()
            watcher.join()
    plan = make_plan(open_source(x), Params(n_epochs=2, n_shards=2), 1, 2 << 30)
    without = estimate_resources(plan)
    needed = estimate_resources(replace(plan, copies_source=True))
    assert needed.disk_bytes - without.disk_bytes == x.nbytes
    assert without.disk_bytes < max(peak.values()) <= needed.disk_bytes
    sample = next(stage for stage in needed.stages if stage.name == "sample")
    assert x.nbytes * 2 < peak["sample"] <= sample.disk_bytes + (1 << 20)


def test_an_estimate_has_the_time_of_every_stage(tmp_path):
    source = open_source(blobs(9000))
    settings: dict[str, Any] = {"n_epochs": 20}
    plan = make_plan(source, Params(**settings), 1, 8 << 30)
    seconds = estimate_seconds(source, Params(**settings), plan)
    assert list(seconds) == [s.name for s in estimate_resources(plan).stages if s.name != "map"]
    assert all(s > 0 for s in seconds.values())
    big = make_plan(source, Params(coarse_init="always", **settings), 1, 8 << 30)
    assert big.coarse_rows == 0, "too few rows for a coarse map"
