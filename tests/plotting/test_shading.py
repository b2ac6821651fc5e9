"""Points become pixels as datashader makes them."""

from __future__ import annotations

import datashader.transfer_functions as tf
import numpy as np
import pytest
import xarray as xr

from nomad_dask.plotting.shading import spread


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
