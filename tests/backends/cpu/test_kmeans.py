"""K-Means cells do not depend on the threads that compute them."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.cpu.kmeans import assign, fit_cells
from nomad_dask.utils.threads import thread_pool
from tests.backends.test_kmeans import rows


@pytest.mark.parametrize("n_cells", [40, 1100])
def test_threads_and_repetition_change_nothing(n_cells):
    x = rows(9000, 5)
    made = []
    for n in (1, 4, 1):
        with thread_pool(n) as pool:
            cells = fit_cells(x, n_cells, 3, pool)
            made.append((cells, assign(x, cells, pool)))
    for cells, labels in made[1:]:
        np.testing.assert_array_equal(cells.centroids, made[0][0].centroids)
        np.testing.assert_array_equal(cells.parents, made[0][0].parents)
        np.testing.assert_array_equal(labels, made[0][1])
