"""Maps of undisturbed runs, and workspaces of stopped ones, each made once for a module."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.pipeline.collect import Layout
from tests.helpers.runs import blobs, make_map
from tests.helpers.stopped_runs import SETTINGS, reaches, stopped


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> Layout:
    return make_map(x, **SETTINGS)


@pytest.fixture(scope="module")
def of_one_shard(x: np.ndarray) -> Layout:
    return make_map(x, **(SETTINGS | {"n_shards": 1}))


@pytest.fixture
def plain(n_shards: int, undisturbed: Layout, of_one_shard: Layout) -> Layout:
    """The undisturbed map of as many shards as the test uses."""
    return undisturbed if n_shards == 2 else of_one_shard


@pytest.fixture(scope="module")
def copy_run(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Layout | None]:
    """Return a function that makes a workspace of a run that was stopped, or not; equal runs are made only once.

    It takes the path, where to stop, such as ``begin cells`` or ``checkpoint 11``, or ``never``, and settings. It
    returns the map of a run that was not stopped.
    """
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Layout | None] = {}

    def copy(workspace: Path, stop: str, **more: Any) -> Layout | None:
        name = f"{stop} {more}"
        if name not in made:
            made[name] = None
            if stop == "never":
                made[name] = make_map(x, workspace=folder / name, **(SETTINGS | more))
            else:
                kind, where = stop.split()
                stopped(x, folder / name, lambda event: reaches(event, kind, where), **more)
        shutil.copytree(folder / name, workspace)
        return made[name]

    return copy
