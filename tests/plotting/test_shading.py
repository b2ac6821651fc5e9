"""Points become pixels as datashader makes them."""

from __future__ import annotations

import datashader as ds
import datashader.transfer_functions as tf
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nomad_dask.plotting.shading import Raster, axis_ranges, point_radius, spread


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float64])
@pytest.mark.parametrize("radius", [0, 1, 3, 18])
def test_points_spread_as_those_of_datashader(radius, dtype):
    rng = np.random.default_rng(radius)
    plane = rng.poisson(0.02, (90, 70)).astype(dtype)
    plane[0, 0] = plane[-1, -1] = 7
    if dtype is np.float64:
        plane *= rng.normal(size=plane.shape)
    known = np.where(plane == 0, np.nan, plane) if dtype is np.float64 else plane.astype(np.uint32)
    expected = np.asarray(tf.spread(xr.DataArray(known, dims=("y", "x")), radius))
    np.testing.assert_allclose(spread(plane, radius), np.nan_to_num(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "size"), [(1, (30, 20)), (2, (41, 97)), (300, (300, 240)), (200_000, (90, 130))])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-9, 3.0), (1e9, -1e12)])
def test_points_are_in_the_pixels_of_datashader(n, size, scale, shift):
    rng = np.random.default_rng(n)
    x, y = scale * rng.normal(size=(2, n)) + shift
    some = np.flatnonzero(rng.random(n) < 0.7)
    values = rng.normal(size=some.size)
    canvas = ds.Canvas(*size, *axis_ranges(x, y, size))
    frame = pd.DataFrame({"x": x[some], "y": y[some], "value": values})
    every = canvas.points(pd.DataFrame({"x": x, "y": y}), "x", "y", ds.count()).to_numpy()
    counts = canvas.points(frame, "x", "y", ds.count()).to_numpy()
    sums = np.nan_to_num(canvas.points(frame, "x", "y", ds.sum("value")).to_numpy())
    radius = point_radius(every > 0)
    raster = Raster(x, y, size)
    for found, plane in ((raster.total, every), (raster.count(some), counts), (raster.sum(some, values), sums)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, spread(plane, radius)[::-1].astype(np.float32))
