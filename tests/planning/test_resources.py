"""What a plan says a process needs is never less than what a real fit takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from nomad_dask.params import Params
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.pipeline.time_estimate import estimate_seconds
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources import open_source
from tests.helpers.runs import blobs

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
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total


@pytest.mark.parametrize(
    ("shape", "dtype", "memory", "settings"),
    [
        ((60_000, 64), "f2", "4GB", {"n_epochs": 2, "coarse_init": "always"}),
        ((24_000, 400), "f4", "700MB", {"n_epochs": 2, "n_shards": 2}),
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


def test_an_estimate_has_the_time_of_every_stage(tmp_path):
    source = open_source(blobs(9000))
    settings: dict[str, Any] = {"n_epochs": 20}
    plan = make_plan(source, Params(**settings), 1, 8 << 30)
    seconds = estimate_seconds(source, Params(**settings), plan)
    assert list(seconds) == [s.name for s in estimate_resources(plan).stages if s.name != "map"]
    assert all(s > 0 for s in seconds.values())
    big = make_plan(source, Params(coarse_init="always", **settings), 1, 8 << 30)
    assert big.coarse_rows == 0, "too few rows for a coarse map"
