"""Tests that hold for every kind of source take `make_source`."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.sources import open_source
from tests.helpers.source_kinds import FILES, IN_MEMORY, LAZY


@pytest.fixture
def x():
    """41 rows of 5 dimensions, float32."""
    return np.random.default_rng(0).standard_normal((41, 5)).astype(np.float32)


@pytest.fixture(params=FILES + LAZY + IN_MEMORY, ids=lambda f: f.__name__)
def make_source(request, tmp_path):
    """A function from an array to an open source, for every kind of source."""
    return lambda x, **more: open_source(request.param(tmp_path, x), **more)


@pytest.fixture(params=FILES + LAZY, ids=lambda f: f.__name__)
def make_shareable(request, tmp_path):
    """As `make_source`, for the kinds that another process can open."""
    return lambda x, **more: open_source(request.param(tmp_path, x), **more)


@pytest.fixture(params=IN_MEMORY, ids=lambda f: f.__name__)
def make_in_memory(request, tmp_path):
    """As `make_source`, for the kinds that live in this process only."""
    return lambda x, **more: open_source(request.param(tmp_path, x), **more)
