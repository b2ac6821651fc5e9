"""Principal axes against NumPy's singular value decomposition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from nomad_dask.backends.gpu.backend import GpuBackend
from tests.helpers.host_runtime import HostRuntime


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Spread halves from one axis to the next, in random directions."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * 0.7 ** np.arange(d) @ turn + rng.normal(size=d)).astype(np.float32)


def true_axes(x: np.ndarray, n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    centered = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    _, widths, axes = np.linalg.svd(centered, full_matrices=False)
    return axes[:n_axes], widths / np.sqrt(len(x) - 1)


@pytest.mark.parametrize(("n", "d", "n_axes"), [(3000, 40, 5), (500, 200, 20), (100, 10, 10), (50, 300, 8)])
def test_the_axes_are_those_of_an_svd(backend, n, d, n_axes):
    x = rows(n, d)
    axes = backend.fit_axes(x, n_axes, 0)
    expected, widths = true_axes(x, n_axes)
    assert axes.components.shape == (n_axes, d)
    assert axes.components.dtype == np.float32
    np.testing.assert_allclose(axes.components @ axes.components.T, np.eye(n_axes), atol=1e-5)
    # The few farthest rows are pulled in, so the axes differ a little.
    assert np.rad2deg(subspace_angles(axes.components[:3].T, expected[:3].T).max()) < 12
    assert axes.std == pytest.approx(widths[0], rel=0.05)
    kept = ((x - x.mean(axis=0)) @ axes.components.T).var(axis=0).sum()
    best = ((x - x.mean(axis=0)) @ expected.T).var(axis=0).sum()
    assert kept > 0.99 * best


@pytest.mark.parametrize("n_far", [1, 20, 30])
def test_a_few_rows_far_out_do_not_decide(backend, n_far):
    x = rows(2000, 30)
    far = x.copy()
    far[:n_far] = 1e6 * np.random.default_rng(1).normal(size=(n_far, 30))
    clean, disturbed = backend.fit_axes(x, 3, 0), backend.fit_axes(far, 3, 0)
    assert np.rad2deg(subspace_angles(clean.components.T, disturbed.components.T).max()) < 10
    assert disturbed.std == pytest.approx(clean.std, rel=0.2)
    np.testing.assert_allclose(disturbed.mean, clean.mean, atol=0.2)


@pytest.mark.parametrize(
    ("n", "d", "n_axes"), [(3000, 40, 5), (500, 200, 20), (100, 10, 10), (50, 300, 8), (20_000, 100, 10)]
)
@pytest.mark.parametrize("n_far", [0, 1])
def test_the_axes_of_the_gpu_are_those_of_the_cpu(gpu_backend, cpu_backend, n, d, n_axes, n_far):
    x = rows(n, d)
    x[:n_far] *= 1e6
    gpu, cpu = gpu_backend.fit_axes(x, n_axes, 0), cpu_backend.fit_axes(x, n_axes, 0)
    assert (gpu.components.shape, gpu.components.dtype) == ((n_axes, d), np.float32)
    np.testing.assert_allclose(gpu.components @ gpu.components.T, np.eye(n_axes), atol=1e-5)
    n_compared = n_axes if n == 20_000 else 5
    np.testing.assert_allclose(gpu.components[:n_compared], cpu.components[:n_compared], atol=2e-3)
    np.testing.assert_allclose(gpu.mean, cpu.mean, atol=1e-4)
    assert gpu.std == pytest.approx(cpu.std, rel=1e-4)
    if not n_far:
        np.testing.assert_allclose(gpu_backend.project(x, cpu), cpu_backend.project(x, cpu), atol=1e-4)


def test_projection(backend):
    x = rows(200, 12)
    axes = backend.fit_axes(x, 4, 0)
    expected = (x.astype(np.float64) - axes.mean) @ axes.components.T.astype(np.float64)
    found = backend.project(x, axes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(backend.project(x.astype(np.float16), axes), expected, atol=0.05)


def test_projection_block_by_block():
    """With so little memory that a block has few rows."""
    backend, narrow = GpuBackend(HostRuntime()), GpuBackend(HostRuntime(free=1 << 12))
    x = rows(200, 12)
    axes = backend.fit_axes(x, 4, 0)
    np.testing.assert_allclose(narrow.project(x, axes), backend.project(x, axes), atol=1e-6)


def test_the_sign_of_an_axis_is_fixed(backend):
    x = rows(500, 8)
    components = backend.fit_axes(x, 4, 0).components
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(4), largest] > 0).all()
    turned = backend.fit_axes(2 * x.mean(axis=0) - x, 4, 0).components
    np.testing.assert_allclose(turned, components, atol=0.05)


@settings(max_examples=60)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 12),
    n_axes=st.integers(1, 14),
    kind=st.sampled_from(["normal", "constant", "line", "far"]),
    seed=st.integers(0, 3),
)
def test_any_sample_has_axes(backend, n, d, n_axes, kind, seed):
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.normal(size=(n, d)),
        "constant": np.full((n, d), 3.25),
        "line": np.outer(rng.normal(size=n), np.ones(d)),
        "far": 1e6 + rng.normal(size=(n, d)),
    }[kind].astype(np.float32)
    x.flags.writeable = False
    axes = backend.fit_axes(x, n_axes, seed)
    assert axes.components.shape == (n_axes, d)
    assert np.isfinite(axes.components).all()
    assert np.isfinite(axes.mean).all()
    assert axes.std >= 0
    lengths = np.linalg.norm(axes.components, axis=1)
    assert (lengths < 1 + 1e-3).all()
    assert np.isfinite(backend.project(x, axes)).all()


def test_the_sample_is_not_modified(backend):
    x = rows(100, 5)
    before = x.copy()
    x.flags.writeable = False
    backend.fit_axes(x, 3, 0)
    np.testing.assert_array_equal(x, before)
